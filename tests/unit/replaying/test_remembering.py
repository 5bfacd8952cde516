"""All that the result of a remembered call depends on is part of what it is remembered by."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.source import ConstantSource
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from hopyard.replaying import Computation, is_same_value

aten = torch.ops.aten
Call = tuple[Any, tuple[Any, ...], dict[str, Any]]
"""An operator, its operands and its keywords."""


def computed(fake_mode: FakeTensorMode, call: Call, *, remember: bool = True) -> Any:
    target, args, kwargs = call
    computation = Computation(fake_mode, remember=remember)
    with computation.surroundings():
        return computation.compute(target, args, kwargs)


def counting(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list that grows by each target that is computed and not remembered."""
    targets: list[Any] = []
    compute = Computation._compute

    def noting(self: Computation, target: Any, args: Any, kwargs: Any) -> Any:
        targets.append(target)
        return compute(self, target, args, kwargs)

    monkeypatch.setattr(Computation, "_compute", noting)
    return targets


def added(one: Any, other: Any, **kwargs: Any) -> Call:
    return aten.add.Tensor, (one, other), kwargs


def ones(*sizes: int, **options: Any) -> Tensor:
    return torch.ones(sizes, **options)


PAIRS: dict[str, Callable[[], tuple[Call, Call]]] = {
    "operator": lambda: ((aten.sum.default, (ones(3),), {}), (aten.exp.default, (ones(3),), {})),
    "size": lambda: (added(ones(2, 3), 1), added(ones(3, 2), 1)),
    "transposed": lambda: (added(ones(3, 3), 1), added(ones(3, 3).t(), 1)),
    "dtype": lambda: (added(ones(2), 1), added(ones(2, dtype=torch.float64), 1)),
    "device": lambda: (added(ones(2), 1), added(ones(2, device="meta"), 1)),
    "kind of number": lambda: (
        added(ones(2, dtype=torch.int64), 1),
        added(ones(2, dtype=torch.int64), 1.0),
    ),
    "truth or number": lambda: (
        added(ones(2, dtype=torch.bool), 1),
        added(ones(2, dtype=torch.bool), True),
    ),
    "operand": lambda: (added(ones(2), ones(2)), added(ones(2), ones(3, 2))),
    "item of a list": lambda: (
        (aten.cat.default, ([ones(2), ones(2)],), {}),
        (aten.cat.default, ([ones(2), ones(3)],), {}),
    ),
    "length of a list": lambda: (
        (aten.cat.default, ([ones(2)],), {}),
        (aten.cat.default, ([ones(2), ones(2)],), {}),
    ),
    "keyword": lambda: (
        (aten.sum.default, (ones(2),), {}),
        (aten.sum.default, (ones(2),), {"dtype": torch.float64}),
    ),
    "dimensions": lambda: (
        (aten.sum.dim_IntList, (ones(2, 3), [0]), {}),
        (aten.sum.dim_IntList, (ones(2, 3), [1]), {}),
    ),
    "memory format": lambda: (
        (aten.clone.default, (ones(1, 2, 3, 4),), {}),
        (aten.clone.default, (ones(1, 2, 3, 4),), {"memory_format": torch.channels_last}),
    ),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_calls_that_differ_are_not_confused(pair: str) -> None:
    mode = FakeTensorMode()
    with mode:
        one, other = PAIRS[pair]()
    computed(mode, one)
    assert is_same_value(computed(mode, other), computed(mode, other, remember=False))
    assert not is_same_value(computed(mode, one), computed(mode, other))


def test_equal_calls_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = counting(monkeypatch)
    mode = FakeTensorMode()
    with mode:
        x, y = torch.ones(2, 3), torch.zeros(2, 3)
    first, second = computed(mode, added(x, 1)), computed(mode, added(y, 1))
    assert targets == [aten.add.Tensor]
    assert is_same_value(first, second)
    assert first is not second
    assert first.untyped_storage()._cdata != second.untyped_storage()._cdata


def test_a_result_that_somebody_resizes_is_remembered_as_it_was() -> None:
    mode = FakeTensorMode()
    with mode:
        x = torch.ones(4)
        first = computed(mode, added(x, 1))
        first.unsqueeze_(0)
        computed(mode, added(x, 1)).unsqueeze_(0)
        assert computed(mode, added(x, 1)).shape == (4,)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: (aten.view.default, (x, [4]), {}),
        lambda x: (aten.add_.Tensor, (x, 1), {}),
        lambda x: (aten.nonzero.default, (x,), {}),
    ],
    ids=["view", "write", "data"],
)
def test_what_shares_or_writes_or_depends_on_data_is_computed_each_time(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[Tensor], Call]
) -> None:
    targets = counting(monkeypatch)
    mode = FakeTensorMode(shape_env=ShapeEnv())
    with mode:
        x = torch.ones(2, 2)
    computed(mode, call(x))
    computed(mode, call(x))
    assert len(targets) == 2


def symbolic(mode: FakeTensorMode, name: str, *sizes: int) -> Tensor:
    """Return a fake tensor each of whose sizes is a symbol of its own."""
    context = StatelessSymbolicContext([DimDynamic.DYNAMIC] * len(sizes))
    given = torch.ones(sizes)
    return mode.from_tensor(given, source=ConstantSource(name), symbolic_context=context)


class TestSymbols:
    def test_expressions_tell_calls_apart(self) -> None:
        mode = FakeTensorMode(shape_env=ShapeEnv())
        x, y = symbolic(mode, "x", 5), symbolic(mode, "y", 5)
        with mode:
            longer = torch.cat([x, x])
        for operand in (x, y, longer):
            made = computed(mode, added(operand, 1))
            assert str(made.shape[0]) == str(operand.shape[0])

    def test_what_becomes_known_of_symbols_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        targets = counting(monkeypatch)
        mode = FakeTensorMode(shape_env=ShapeEnv())
        x = symbolic(mode, "x", 5)
        computed(mode, added(x, 1))
        assert bool(x.shape[0] == 5)
        assert computed(mode, added(x, 1)).shape[0] == 5
        assert len(targets) == 2

    def test_another_environment_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        targets = counting(monkeypatch)
        mode = FakeTensorMode(shape_env=ShapeEnv())
        x = symbolic(mode, "x", 5)
        computed(mode, added(x, 1))
        mode.shape_env = ShapeEnv()
        other = symbolic(mode, "x", 5)
        made = computed(mode, added(other, 1))
        assert made.shape[0].node.shape_env is mode.shape_env
        assert len(targets) == 2


class TestCircumstances:
    def test_the_default_dtype(self) -> None:
        mode = FakeTensorMode()
        with mode:
            x = torch.ones(2, dtype=torch.int64)
        assert computed(mode, (aten.div.Tensor, (x, 2), {})).dtype == torch.float32
        torch.set_default_dtype(torch.float64)
        try:
            assert computed(mode, (aten.div.Tensor, (x, 2), {})).dtype == torch.float64
        finally:
            torch.set_default_dtype(torch.float32)

    def test_a_kernel_that_is_registered_later(self) -> None:
        library = torch.library.Library("hopyard_remembering_tests", "DEF")
        try:
            library.define("twice(Tensor x) -> Tensor")
            library.impl("twice", lambda x: x.clone(), "CompositeExplicitAutograd")
            mode = FakeTensorMode()
            with mode:
                x = torch.ones(2)
            call = (torch.ops.hopyard_remembering_tests.twice.default, (x,), {})
            assert computed(mode, call).shape == (2,)
            library.impl("twice", lambda x: torch.cat([x, x]), "Meta")
            assert computed(mode, call).shape == (4,)
        finally:
            library._destroy()

    def test_modes_do_not_share_what_they_remember(self) -> None:
        one, other = FakeTensorMode(), FakeTensorMode()
        with one:
            x = torch.ones(2)
        with other:
            y = torch.ones(2)
        assert computed(one, added(x, 1)).fake_mode is one
        assert computed(other, added(y, 1)).fake_mode is other

    @pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
    def test_the_copy_of_a_mode_remembers_nothing(
        self, copied: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mode = FakeTensorMode()
        with mode:
            x = torch.ones(2)
        computed(mode, added(x, 1))
        another = copied(mode)
        with another:
            y = torch.ones(2)
        targets = counting(monkeypatch)
        assert computed(another, added(y, 1)).fake_mode is another
        assert len(targets) == 1
