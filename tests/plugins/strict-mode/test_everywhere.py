"""A strict region is analysed and kept wherever it is recorded, also that of a decorator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx

import hopyard
from hopyard.errors import UnsupportedError
from hopyard_strict_mode import region, strict_mode

pytestmark = pytest.mark.filterwarnings("ignore:Dynamo does not know:UserWarning")

KEPT: list[int] = []


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def x() -> Tensor:
    return torch.linspace(-1.0, 2.0, 12).view(3, 4)


class Program(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, a: Tensor) -> Any:
        return self.function(a)


def exported(strict: bool) -> Callable[[Callable[[Tensor], Any]], GraphModule]:
    def export(function: Callable[[Tensor], Any]) -> GraphModule:
        with torch.no_grad():
            return torch.export.export(Program(function), (x(),), strict=strict).graph_module

    return export


def compiled(function: Callable[[Tensor], Any]) -> GraphModule:
    graphs: list[GraphModule] = []
    torch.compile(function, backend=lambda graph, inputs: graphs.append(graph) or graph)(x())
    return graphs[0]


RECORDERS: dict[str, Callable[[Callable[[Tensor], Any]], GraphModule]] = {
    "ours": lambda function: hopyard.make_fx(function, tracing_mode="symbolic")(x()),
    "torch": lambda function: torch_make_fx(function, tracing_mode="symbolic")(x()),
    "export": exported(strict=False),
    "strict export": exported(strict=True),
    "compile": compiled,
}
everywhere = pytest.mark.parametrize("record", RECORDERS.values(), ids=RECORDERS)


def calls(graph_module: GraphModule) -> int:
    graphs = [each for each in graph_module.modules() if isinstance(each, GraphModule)]
    found = (each.graph.find_nodes(op="call_function", target=region) for each in graphs)
    return sum(map(len, found))


@everywhere
def test_it_is_kept_with_what_it_captures_and_in_itself(record: Any) -> None:
    def program(a: Tensor) -> Tensor:
        doubled = a * 2

        def inner(b: Tensor) -> Tensor:
            return b.sin() * doubled * a.shape[0]

        return strict_mode(lambda b: strict_mode(inner, (b + 1,)) - a, (a,))

    assert calls(record(program)) == 2


def prints(a: Tensor) -> Tensor:
    b = a * 2
    print("seen")
    return b


def branches(a: Tensor) -> Tensor:
    if a.sum().item() > 0:
        return a + 1
    return a


def remembers(a: Tensor) -> Tensor:
    KEPT.append(1)
    return a * 2


def reads_a_file(a: Tensor) -> Tensor:
    b = a * 2
    return b * len(Path(__file__).read_text())


REFUSED = [(prints, 2), (branches, 1), (remembers, 1), (reads_a_file, 2)]


@everywhere
@pytest.mark.parametrize(("body", "offset"), REFUSED, ids=lambda each: str(each)[:18])
def test_what_it_cannot_see_is_refused_at_its_line(
    body: Any, offset: int, record: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UnsupportedError) as raised:
        record(lambda a: strict_mode(body, (a,)))
    location = raised.value.location
    assert (location.file, location.line) == (__file__, body.__code__.co_firstlineno + offset)
    assert raised.value.hint
    assert capsys.readouterr().out == ""
    assert KEPT == []


def test_sizes_stay_symbolic() -> None:
    graph_module = RECORDERS["ours"](lambda a: strict_mode(lambda b: b.sin() * b.shape[0], (a,)))
    assert graph_module.shape_env.guards == []
    other = torch.randn(5, 4)
    torch.testing.assert_close(graph_module(other), other.sin() * 5)


def test_a_training_step_keeps_the_region() -> None:
    def step(a: Tensor, weight: Tensor) -> Any:
        result = strict_mode(lambda b: (b * weight).sin(), (a,))
        return torch.autograd.grad(result.sum(), (a, weight))

    def inputs() -> tuple[Tensor, Tensor]:
        return x().requires_grad_(), torch.ones(4, requires_grad=True)

    graph_module = hopyard.make_fx(step, tracing_mode="fake")(*inputs())
    assert calls(graph_module) == 2
    torch.testing.assert_close(graph_module(*inputs()), step(*inputs()))


@strict_mode
def shifted(a: Tensor, b: list[Tensor], *, by: float = 1.0) -> Tensor:
    """Shift."""
    return a * b[0] + by


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    @strict_mode
    def forward(self, a: Tensor) -> Tensor:
        return self.linear(a)


def test_as_a_decorator() -> None:
    assert (shifted.__name__, shifted.__doc__) == ("shifted", "Shift.")
    torch.testing.assert_close(shifted(x(), [x()], by=2.0), x() * x() + 2)
    layer = Layer()
    torch.testing.assert_close(layer(x()), layer.linear(x()))
    with torch.no_grad():
        for strict in (True, False):
            program = torch.export.export(layer, (x(),), strict=strict)
            assert calls(program.graph_module) == 1
            torch.testing.assert_close(program.module()(x()), layer.linear(x()))
    decorated = strict_mode(prints)
    with pytest.raises(UnsupportedError) as raised:
        decorated(x())
    assert raised.value.location.line == prints.__code__.co_firstlineno + 2


def test_a_body_that_calls_itself_is_refused() -> None:
    def endless(a: Tensor) -> Tensor:
        return strict_mode(endless, (a,))

    with pytest.raises(UnsupportedError, match="call itself") as raised:
        strict_mode(endless, (x(),))
    assert raised.value.location.line == endless.__code__.co_firstlineno + 1


def test_an_exception_of_the_body_is_raised_as_it_is() -> None:
    def failing(a: Tensor) -> Tensor:
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        strict_mode(failing, (x(),))
