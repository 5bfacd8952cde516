"""Inputs that look alike are made fake once with torch's care, and as torch makes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental import _config
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import hopyard
from hopyard.testing import assert_same_assumptions, assert_same_graph
from hopyard.tracing import _inputs
from hopyard.tracing.memory._leaves import SymbolicLeaves

KNOWN = ("source_to_var", "var_to_sources", "symbol_guard_counter", "var_to_range", "val_to_var")
"""What is known of symbols."""


def used(*inputs: Tensor) -> list[Any]:
    """Use sizes, strides and memory of each input."""
    results: list[Any] = []
    for each in inputs:
        results.append(each.sum() * each.numel())
        results += [each * size for size in each.shape]
        results += [each + stride for stride in each.stride()]
        if each.dim() == 2:
            results += [each.t().reshape(-1), each.reshape(-1)]
    return results


def ones(*shape: int, **options: Any) -> Tensor:
    return torch.ones(shape, **options)


def with_gradient() -> Tensor:
    trained = ones(4, 6, requires_grad=True)
    trained.grad = ones(4, 6)
    return trained


def over_part_of_a_storage() -> Tensor:
    return torch.empty(0).set_(torch.ones(50).untyped_storage(), 0, (4, 6), (6, 1))


INPUTS: dict[str, Callable[[], list[Tensor]]] = {
    "matrices": lambda: [ones(4, 6), ones(4, 6), ones(6, 4), ones(6, 4)],
    "vectors": lambda: [ones(6), ones(6), ones(4), ones(4)],
    "many dimensions": lambda: [ones(2, 3, 4, 5), ones(2, 3, 4, 5)],
    "dimensions of one element": lambda: [ones(2, 3, 1, 1), ones(2, 3, 1, 1), ones(1, 6)],
    "no symbols": lambda: [ones(1, 1), ones(1, 1), ones(1), ones(1)],
    "empty": lambda: [ones(0, 3), ones(0, 3), ones(3, 0)],
    "types": lambda: [ones(4, 6), ones(4, 6, dtype=torch.float64), ones(4, 6, dtype=torch.int32)],
    "trained": lambda: [ones(4, 6), ones(4, 6, requires_grad=True), ones(4, 6)],
    "parameters": lambda: [ones(4, 6), nn.Parameter(ones(4, 6)), nn.Parameter(ones(4, 6))],
    "a gradient": lambda: [ones(4, 6), with_gradient(), with_gradient()],
    "numbers": lambda: [torch.tensor(3), torch.tensor(3), torch.tensor(2.5), torch.tensor(2.5)],
    "columns": lambda: [ones(4, 6), ones(6, 4).t(), ones(4, 6), ones(6, 4).t()],
    "odd strides": lambda: [ones(4, 1), ones(4, 7)[:, :1].clone().as_strided((4, 1), (1, 9))],
    "channels last": lambda: [
        ones(2, 3, 4, 5),
        ones(2, 3, 4, 5).to(memory_format=torch.channels_last),
    ],
    "part of a storage": lambda: [ones(4, 6), over_part_of_a_storage(), over_part_of_a_storage()],
}


def aliases() -> list[Tensor]:
    first, second = ones(4, 6), ones(4, 6)
    return [ones(4, 6), first, first.view(-1), first, second.view(6, 4), second]


INPUTS["aliases"] = aliases


def captured(tracer: Callable[..., Any], inputs: list[Tensor]) -> Any:
    with torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
        return tracer(used, tracing_mode="symbolic")(*inputs)


@pytest.mark.parametrize("name", INPUTS)
def test_they_are_what_torch_makes_of_them(name: str) -> None:
    theirs, ours = (captured(each, INPUTS[name]()) for each in (torch_make_fx, hopyard.make_fx))
    assert_same_graph(ours, theirs)
    assert_same_assumptions(ours, theirs)
    for attribute in KNOWN:
        of_each = [str(getattr(each.shape_env, attribute)) for each in (ours, theirs)]
        assert of_each[0] == of_each[1], attribute
    for mine, torchs in zip(ours.graph.nodes, theirs.graph.nodes, strict=True):
        for attribute in ("requires_grad", "_is_param"):
            values = [each.meta.get("val") for each in (mine, torchs)]
            assert getattr(values[0], attribute, None) == getattr(values[1], attribute, None)


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The inputs that go the long way."""
    seen: list[Tensor] = []
    convert = _inputs._converted

    def counted(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        seen.append(tensor)
        return convert(tensor, *args, **kwargs)

    monkeypatch.setattr(_inputs, "_converted", counted)
    return seen


def test_one_of_each_look_goes_the_long_way(converted: list[Tensor]) -> None:
    inputs = [ones(4, 6), ones(4, 6), ones(6, 4), nn.Parameter(ones(4, 6)), ones(6, 4)]
    captured(hopyard.make_fx, inputs)
    assert [id(each) for each in converted] == [id(inputs[0]), id(inputs[2])]


def test_the_mode_gives_the_same_fake_to_the_same_tensor_later() -> None:
    fake_mode = FakeTensorMode(shape_env=ShapeEnv())
    inputs = [ones(4, 6), ones(4, 6)]
    fakes = _inputs.symbolize(inputs, fake_mode)
    assert [fake_mode.from_tensor(each) for each in inputs] == fakes
    view = fake_mode.from_tensor(inputs[1].view(-1))
    assert view.untyped_storage()._cdata == fakes[1].untyped_storage()._cdata


def test_each_has_numbers_of_its_own() -> None:
    fakes = _inputs.symbolize([ones(4, 6) for _ in range(3)], FakeTensorMode(shape_env=ShapeEnv()))
    nodes = {id(size.node) for each in fakes for size in (*each.shape, each.stride(0))}
    assert len(nodes) == 9


UNSUITABLE: dict[str, Callable[[], FakeTensorMode]] = {
    "no symbols": FakeTensorMode,
    "equal sizes have symbols of their own": lambda: FakeTensorMode(
        shape_env=ShapeEnv(duck_shape=False)
    ),
    "zero and one are symbols": lambda: FakeTensorMode(
        shape_env=ShapeEnv(specialize_zero_one=False)
    ),
    "sizes stay numbers": lambda: FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True),
    "events are recorded": lambda: FakeTensorMode(shape_env=ShapeEnv(should_record_events=True)),
}


@pytest.mark.parametrize("name", UNSUITABLE)
def test_other_modes_are_asked_themselves(name: str) -> None:
    assert SymbolicLeaves.suits(FakeTensorMode(shape_env=ShapeEnv()))
    assert not SymbolicLeaves.suits(UNSUITABLE[name]())


def test_sizes_that_nobody_may_look_at_are_left_to_torch() -> None:
    with _config.patch(backed_size_oblivious=True):
        assert not SymbolicLeaves.suits(FakeTensorMode(shape_env=ShapeEnv()))


def test_inference_mode_is_left_to_torch() -> None:
    with torch.inference_mode():
        assert not SymbolicLeaves.suits(FakeTensorMode(shape_env=ShapeEnv()))
