"""Each option of `make_fx` does what torch's does, also when that is to fail."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx
from torch.overrides import TorchFunctionMode

import hopyard
from hopyard.errors import CaptureError, DataDependentError
from hopyard.testing import assert_same_graph
from hopyard.tracing import FunctionMode, function_mode_removed
from hopyard_hookspecs import Mode, hookimpl

W = torch.full((2,), 5.0)


def both(function: Callable[..., Any], *inputs: Any, **options: Any) -> list[Any]:
    """Return torch's graph and ours, or what was raised."""
    made: list[Any] = []
    for make in (torch_make_fx, hopyard.make_fx):
        try:
            made.append(make(function, **options)(*inputs))
        except Exception as error:  # noqa: BLE001
            made.append(error)
    return made


def assert_alike(function: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    expected, actual = both(function, *inputs, **options)
    assert not isinstance(actual, Exception), actual
    assert_same_graph(actual, expected)
    assert actual.code == expected.code
    assert type(actual).__name__ == type(expected).__name__
    return actual


@pytest.mark.parametrize("allowed", [False, True])
def test_allow_non_fake_inputs(allowed: bool) -> None:
    options = {"tracing_mode": "fake", "_allow_non_fake_inputs": allowed}
    expected, actual = both(lambda x: x + W, torch.ones(2), **options)
    assert isinstance(expected, Exception) is isinstance(actual, CaptureError) is not allowed
    if allowed:
        assert_same_graph(actual, expected)


@pytest.mark.parametrize("allowed", [False, True])
def test_allow_fake_constant_makes_no_difference(allowed: bool) -> None:
    with FakeTensorMode():
        constant = torch.ones(2)
    for function in (lambda x: x + 1, lambda x: (x, constant * 2)[0]):
        expected, actual = both(function, torch.ones(2), _allow_fake_constant=allowed)
        assert isinstance(expected, Exception) is isinstance(actual, Exception)
        if not isinstance(actual, Exception):
            assert_same_graph(actual, expected)


def test_a_value_is_read_if_that_is_allowed() -> None:
    def program(x: Tensor) -> Tensor:
        return x * (2 if x.sum() > 1 else 3) + x[0].item()

    refused = both(program, torch.ones(2))
    assert isinstance(refused[0], RuntimeError)
    assert isinstance(refused[1], DataDependentError)
    assert_alike(program, torch.ones(2), _error_on_data_dependent_ops=False)


class Scaler(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((2,), 3.0))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        return x * self.weight


class Called:
    def __call__(self, x: Tensor) -> Any:
        return x.sin(), "text", None


def variable(*values: Any) -> Any:
    return sum(values[1:], values[0])


def mixed(x: Tensor, *rest: Any) -> Any:
    return [x, *rest]


def bare(function: Callable[..., Any]) -> Callable[..., Any]:
    """Hide the code of a function, as wrappers do that are not functions."""

    class Wrapper:
        def __call__(self, *args: Any) -> Any:
            return function(*args)

    return Wrapper()


@pytest.mark.parametrize(
    ("function", "count"),
    [
        (variable, 3),
        (mixed, 2),
        (Called(), 1),
        (bare(torch.add), 2),
        (torch.sin, 1),
        (Tensor.cos, 1),
        (torch.ops.aten.add.Tensor, 2),
        (functools.partial(torch.add, alpha=2), 2),
        (functools.partial(variable, 2), 2),
        (Scaler(), 1),
        (lambda x: None, 1),
        (lambda x: 3, 1),
        (lambda x: "text", 1),
        (lambda x: {"a": [x, (x + 1, None)], "b": 2.5}, 1),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_callables_of_all_kinds(function: Any, count: int, mode: str) -> None:
    inputs = [torch.full((2,), float(index)) for index in range(count)]
    expected, actual = both(function, *inputs, tracing_mode=mode, _allow_non_fake_inputs=True)
    assert isinstance(expected, Exception) is isinstance(actual, Exception), (expected, actual)
    if not isinstance(expected, Exception):
        assert_same_graph(actual, expected)
        assert actual.code == expected.code


def test_a_function_mode_is_active_as_under_torchs_tracer() -> None:
    seen: list[bool] = []

    def program(x: Tensor) -> Tensor:
        seen.append(torch.overrides.has_torch_function((x,)))
        with function_mode_removed() as removed:
            seen.append(torch.overrides.has_torch_function((x,)))
            assert isinstance(removed, FunctionMode)
        seen.append(torch.overrides.has_torch_function((x,)))
        return x.sin()

    hopyard.make_fx(program)(torch.ones(2))
    assert seen == [True, False, True]
    seen.clear()
    hopyard.make_fx(
        lambda x: (seen.append(torch.overrides.has_torch_function((x,))), x)[1],
        _disable_torch_fn_metadata_mode=True,
    )(torch.ones(2))
    assert seen == [False]


def test_modes_above_a_removed_one_stay_in_their_order() -> None:
    class Named(TorchFunctionMode):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            told.append(self.name)
            return func(*args, **(kwargs or {}))

    class Middle(Named):
        pass

    told: list[str] = []
    with Named("low"), Middle("middle"), Named("high"), Named("top"):
        with pytest.raises(ZeroDivisionError), function_mode_removed(Middle):
            _ = torch.ones(1), 1 // 0
        torch.ones(1)
    assert told == ["top", "high", "low", "top", "high", "middle", "low"]
    with function_mode_removed(Middle) as removed:
        assert removed is None


def test_modes_of_plugins_see_a_call_before_the_frameworks_own() -> None:
    order: list[str] = []

    class Early:
        @hookimpl
        def hopyard_register_modes(self) -> Iterator[Mode]:
            yield Mode("early", factory=lambda request: Seeing(), default=True, order=-100)

    class Seeing(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            below = torch.overrides._get_current_function_mode_stack()
            order.append(type(below[-1]).__name__ if below else "none")
            return func(*args, **(kwargs or {}))

    session = hopyard.Session(discover=False, plugins=[Early()])
    assert {"early", "function-metadata", "pre-dispatch-state"} <= set(session.modes)
    session.capture(lambda x: torch.sin(x), (torch.ones(2),))
    assert order == ["FunctionMode"]
