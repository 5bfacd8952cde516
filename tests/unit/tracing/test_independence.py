"""torch's tracer takes no part in a capture, also where torch's operators trace their bodies."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from functorch.experimental.control_flow import map as torch_map
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop
from torch.fx.experimental import proxy_tensor
from torch.nn import functional

import hopyard
from hopyard.testing import assert_same_graph
from hopyard.tracing import TRACING_MODES
from hopyard.tracing.bridge._reentry import Forwarder

POISONED = (
    "make_fx",
    "_MakefxTracer",
    "dispatch_trace",
    "proxy_call",
    "PythonKeyTracer",
    "_ModuleStackTracer",
    "TorchFunctionMetadataMode",
    "wrap_key",
    "set_meta",
)
"""What makes up torch's tracer, but for types that torch itself compares with."""

METHODS = (
    "__torch_dispatch__",
    "__sym_dispatch__",
    "__enter__",
    "__exit__",
    "__init__",
    "enable_decompositions",
)
"""What our mode has of its own, although it derives from torch's."""


class Poison(AssertionError):
    pass


@contextmanager
def poisoned(names: tuple[str, ...] = POISONED) -> Iterator[None]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise Poison

    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(proxy_tensor, name, refuse)
        for name in METHODS:
            patch.setattr(proxy_tensor.ProxyTorchDispatchMode, name, refuse)
        yield


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
        self.tied = self.inner[0]

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        leaf = x.detach().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = functional.gelu(self.tied(self.inner(leaf)) @ weight.t())
        with torch.no_grad():
            scale = hidden.float().std() * torch.tensor(2.0).item()
        hidden = hidden.float() * scale
        hidden[0].mul_(2)
        (gradient,) = torch.autograd.grad(hidden.sum(), leaf)
        return torch.vmap(lambda row: row.sum())(gradient) + x.shape[0]


def program(x: Tensor, weight: Tensor) -> Tensor:
    model = Model().requires_grad_(False)
    held = (*model.named_parameters(), *model.named_buffers())
    state = {name: value.clone() for name, value in held}
    result: Tensor = torch.func.functional_call(model, state, (x, weight))
    return result


def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(6, 6), torch.randn(6, 6)


def captures() -> dict[str, dict[str, Any]]:
    """Each kind of capture that `make_fx` offers."""
    kinds: dict[str, dict[str, Any]] = {mode: {"tracing_mode": mode} for mode in TRACING_MODES}
    kinds["pre_dispatch"] = {"pre_dispatch": True}
    kinds["module stacks"] = {"record_module_stack": True, "record_stack_traces": True}
    return kinds


def captured(options: dict[str, Any]) -> torch.fx.GraphModule:
    return hopyard.make_fx(program, **options)(*inputs())


def test_the_poison_works() -> None:
    for name in POISONED[:5]:
        with poisoned((name,)), pytest.raises(Poison):
            proxy_tensor.make_fx(torch.sin)(torch.ones(1))
    assert all(inspect.isfunction(vars(hopyard.tracing.TracingMode)[name]) for name in METHODS)


# Above autograd a backward pass reads constants, of which ours warns.
@pytest.mark.filterwarnings("ignore::hopyard.errors.CaptureWarning")
@pytest.mark.parametrize("options", captures().values(), ids=captures())
def test_nothing_of_torchs_tracer_takes_part(options: dict[str, Any]) -> None:
    expected = captured(options)
    with poisoned():
        actual = captured(options)
    assert_same_graph(actual, expected)


def branches(x: Tensor, y: Tensor) -> Any:
    return torch.cond(x.sum() > 0, lambda a, b: (a + b).sin(), lambda a, b: a - b, (x, y))


def maps(x: Tensor, y: Tensor) -> Any:
    return torch_map(lambda row, whole: (row * whole).sum(0), x, y)


def scans(x: Tensor, y: Tensor) -> Any:
    return scan(lambda carry, row: (carry + row, carry * row), y[0], x, dim=0)


def loops(x: Tensor, y: Tensor) -> Any:
    def step(index: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        return index + 1, value * 2

    return while_loop(lambda index, value: index < 3, step, (torch.tensor(0), x))


def nests(x: Tensor, y: Tensor) -> Any:
    def row(a: Tensor, b: Tensor) -> Tensor:
        chosen: Tensor = torch.cond(a.sum() > 0, lambda p: p.sin(), lambda p: p.cos(), (a,))
        return chosen * b[0]

    return torch_map(row, x, y)


def nests_deeper(x: Tensor, y: Tensor) -> Any:
    return torch.cond(x.sum() > 0, nests, lambda a, b: a * b[0], (x, y))


BODIES: dict[Callable[..., Any], int] = {
    branches: 2,
    maps: 1,
    scans: 1,
    loops: 2,
    nests: 3,
    nests_deeper: 5,
}
"""How many bodies there are in each."""


@pytest.mark.parametrize("function", BODIES, ids=lambda function: function.__name__)
def test_bodies_are_traced_by_our_engine(
    function: Callable[..., Any], mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[Any] = []
    trace_subgraph = Forwarder.trace_subgraph

    def counted(self: Forwarder, body: Callable[..., Any], *args: Any) -> Any:
        reached.append(body)
        return trace_subgraph(self, body, *args)

    # Dynamo, which operators hand their bodies to, remembers the sizes it has seen.
    torch._dynamo.reset()
    expected = proxy_tensor.make_fx(function, tracing_mode=mode)(*inputs())
    torch._dynamo.reset()
    monkeypatch.setattr(Forwarder, "trace_subgraph", counted)
    # Rules for higher-order operators describe with set_meta what they record.
    with poisoned(tuple(set(POISONED) - {"set_meta"})):
        actual = hopyard.make_fx(function, tracing_mode=mode)(*inputs())
    assert_same_graph(actual, expected)
    assert len(reached) >= BODIES[function]
