"""What regions return reaches the caller as it was; graphs hold it in a form that files have."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx
from torch.utils._pytree import tree_map_only

import hopyard
from hopyard.errors import ArtifactError, UnsupportedError
from hopyard.hops import Operator, bind
from hopyard.testing import HopSample, check_hop
from hopyard_hookspecs import Hop, hookimpl

X = torch.linspace(0.5, 2.0, 6).reshape(2, 3)


def enclosing(body: Callable[..., Any], *operands: Any) -> dict[str, Any]:
    """An eager definition that looks into what the body returns and has a form of its own."""
    found = body(*operands)
    return {"found": tree_map_only(Tensor, torch.neg, found), "kind": type(found).__name__}


@pytest.fixture(params=["runs its body", "looks at it"])
def hop(request: pytest.FixtureRequest, define: Callable[..., Hop]) -> Operator:
    return bind(define() if request.param == "runs its body" else define(enclosing))


class Pair(NamedTuple):
    first: Tensor
    second: int


BODIES: dict[str, Callable[[Tensor], Any]] = {
    "list": lambda x: [x.sin(), x.cos()],
    "mapping": lambda x: {"a": x.sin(), "b": [x.cos(), (x + 1,)]},
    "constants": lambda x: (x.sin(), None, 3, 2.5, True, "text"),
    "an operand": lambda x: {"same": x, "new": x * 2},
    "one in a tuple": lambda x: (x.sin(),),
    "nothing new": lambda x: {"none": None},
}
TRACERS: dict[str, Callable[..., Callable[..., GraphModule]]] = {
    f"{name}-{mode}": partial(make, tracing_mode=mode)
    for name, make in (("ours", hopyard.make_fx), ("torch", torch_make_fx))
    for mode in ("fake", "symbolic")
}


def comparable(value: Any) -> Any:
    return tree_map_only(Tensor, Tensor.tolist, value)


@pytest.mark.parametrize("make", TRACERS.values(), ids=TRACERS)
@pytest.mark.parametrize("name", BODIES)
def test_a_capture_returns_what_a_call_returns(name: str, make: Any, hop: Operator) -> None:
    program = partial(hop, BODIES[name])
    graph_module = make(program)(X)
    again = make(graph_module)(X)
    for captured in (graph_module, again):
        assert comparable(captured(X + 1)) == comparable(program(X + 1))
        for call in captured.graph.find_nodes(op="call_function", target=hop):
            values = call.meta["val"]
            assert values == (None,) or all(isinstance(value, Tensor) for value in values)


@pytest.mark.parametrize("name", ["mapping", "constants"])
def test_every_surface_carries_it(name: str, hop: Operator) -> None:
    verdicts = check_hop(hop, [HopSample((BODIES[name], X), name=name)])
    assert [str(verdict) for verdict in verdicts if verdict.problem] == []


def test_an_operator_without_a_body(define: Callable[..., Hop]) -> None:
    operator = bind(define(lambda x: {"a": x * 2, "b": [x.sin(), None]}, kind="operator"))
    verdicts = check_hop(operator, [HopSample((X,))])
    assert [str(verdict) for verdict in verdicts if verdict.problem] == []


def test_a_number_that_is_symbolic_only_in_one_of_two_captures(hop: Operator) -> None:
    def program(x: Tensor) -> Any:
        return hop(lambda v: {"count": v.shape[0], "value": v * 2}, x)

    symbolic = hopyard.make_fx(program, tracing_mode="symbolic")(X)
    fixed = hopyard.make_fx(symbolic, tracing_mode="fake")(X)
    assert comparable(fixed(X)) == comparable(symbolic(X)) == comparable(program(X))
    longer = torch.randn(5, 3)
    assert comparable(symbolic(longer)) == comparable(program(longer))


def test_a_container_that_only_the_process_knows(define: Callable[..., Hop]) -> None:
    def program(operator: Operator, x: Tensor) -> Any:
        return operator(lambda v: Pair(v.sin(), 3), x)

    plain, own = bind(define()), bind(define(enclosing))
    found = hopyard.make_fx(partial(program, plain))(X)(X)
    assert isinstance(found, Pair)
    assert comparable(found) == comparable(program(plain, X))
    for make in TRACERS.values():
        with pytest.raises(UnsupportedError, match="returns a Pair") as raised:
            make(partial(program, own))(X)
        assert raised.value.plugin is not None
        assert raised.value.location is not None


@pytest.mark.parametrize("make", TRACERS.values(), ids=TRACERS)
def test_what_no_graph_returns_is_refused(make: Any, hop: Operator) -> None:
    with pytest.raises(UnsupportedError, match="returns a generator") as raised:
        make(partial(hop, lambda x: (x * index for index in range(3))))(X)
    assert raised.value.plugin is not None


class Program(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def session_of(operator: Operator) -> hopyard.Session:
    class Offering:
        @hookimpl
        def hopyard_register_hops(self) -> Any:
            yield operator.definition

    return hopyard.Session(discover=False, plugins=[Offering()])


def test_a_writing_body_that_returns_nothing(define: Callable[..., Hop], tmp_path: Path) -> None:
    writer = bind(define(writes=True))

    def program(x: Tensor) -> Tensor:
        total = x.clone()
        writer(lambda v: (total.add_(v), None)[1], x)
        return total

    with torch.no_grad():
        exported = torch.export.export(Program(program), (X,), strict=False)
        file = BytesIO()
        torch.export.save(exported, file)
        file.seek(0)
        torch.testing.assert_close(torch.export.load(file).module()(X + 1), 2 * X + 2)
        session = session_of(writer)
        session.capture(program, (X,)).save(tmp_path / "program.pt2")
        torch.testing.assert_close(session.load(tmp_path / "program.pt2")(X + 1), 2 * X + 2)


def test_a_truth_value_that_files_do_not_have(define: Any, tmp_path: Path) -> None:
    plain = bind(define())

    def program(x: Tensor) -> Tensor:
        value, is_long = plain(lambda v: (v * 2, v.shape[0] > v.shape[1]), x)
        return value if is_long else -value

    sizes = {"x": {0: torch.export.Dim("rows", min=2), 1: torch.export.Dim("columns", min=2)}}
    with torch.no_grad():
        with pytest.raises(UnsupportedError, match="truth value"):
            torch.export.export(Program(program), (X,), dynamic_shapes=sizes, strict=False)
        captured = session_of(plain).capture(program, (X,), dynamic_shapes=sizes)
        with pytest.raises(ArtifactError, match="the region"):
            captured.save(tmp_path / "program.pt2")
