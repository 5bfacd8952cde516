"""`functionalize`: graphs that write become graphs that return what they wrote."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export.graph_signature import OutputKind

from hopyard import Program, Session
from hopyard.errors import PassError
from hopyard.verify import verify, walk_graphs

aten = torch.ops.aten
X = torch.linspace(-1, 1, 12).reshape(3, 4)


class Writing(nn.Module):
    """Writes to a buffer and to an intermediate value, in training by torch.export as well."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        y = self.linear(x)
        y.mul_(2.0)
        y.relu_()
        return y + self.calls


def writes_view(x: Tensor) -> Tensor:
    y = x.clone()
    y[0].fill_(3.0)
    y.t().add_(1.0)
    return y


def writes_input(x: Tensor) -> Tensor:
    x.add_(1.0)
    return x * 2


def writes(program: Program) -> list[Any]:
    return [
        node.target
        for _, body in walk_graphs(program.graph_module)
        for node in body.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable
    ]


def as_module(function: Callable[..., Any]) -> nn.Module:
    class Module(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return function(x)

    return Module()


@pytest.mark.parametrize("module", [Writing(), as_module(writes_view)])
def test_exported_programs_become_pure(module: nn.Module, session: Session) -> None:
    module, again = copy.deepcopy(module), copy.deepcopy(module)
    program = session.from_exported_program(torch.export.export(module, (X,)))
    assert writes(program)
    result = session.run("functionalize", program)
    assert result.records[0].modified
    assert not writes(result.program)
    verify(result.program.graph_module, propagate=True)
    for _ in range(2):
        torch.testing.assert_close(result.program(X), again(X))
    assert writes(program)


def test_other_passes_then_see_through(session: Session) -> None:
    program = session.from_exported_program(torch.export.export(Writing(), (X,)))
    assert not session.run("remove-no-ops,cse", program).records[1].modified
    result = session.run("functionalize,decompose,cse,dce", program)
    torch.testing.assert_close(result.program(X), program(X) - 1)


def test_what_is_written_is_returned_first(session: Session) -> None:
    program = session.from_exported_program(torch.export.export(as_module(writes_input), (X,)))
    result = session.run("functionalize", program).program
    kinds = [spec.kind for spec in result.signature.output_specs]
    assert kinds == [OutputKind.USER_INPUT_MUTATION, OutputKind.USER_OUTPUT]
    x = X.clone()
    torch.testing.assert_close(result(x), (X + 1) * 2)
    torch.testing.assert_close(x, X + 1)


class Sharing(nn.Module):
    """Returns what it writes, a view of it, and a buffer."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        self.total.add_(1)
        x.add_(1.0)
        return x, self.total, x[1:], x * 2


@pytest.mark.parametrize("dynamic", [False, True])
def test_results_share_memory_as_they_did(dynamic: bool, session: Session) -> None:
    shapes = {"x": {0: torch.export.Dim("batch", min=3, max=9)}} if dynamic else None
    exported = torch.export.export(Sharing(), (X.clone(),), dynamic_shapes=shapes)
    program = session.run("functionalize", session.from_exported_program(exported)).program
    x = torch.ones(5 if dynamic else 3, 4)
    whole, total, rest, doubled = program(x)
    assert whole is x
    assert total is program.state["total"]
    assert rest.data_ptr() == x[1:].data_ptr()
    rest.zero_()
    torch.testing.assert_close(x.sum(), torch.tensor(8.0))
    torch.testing.assert_close(doubled, torch.full_like(x, 4.0))


def test_captured_programs_are_pure_already(
    session: Session, capture: Callable[..., Program], case: tuple[Callable[..., Any], Any]
) -> None:
    target, inputs = case
    program = capture(target, *inputs)
    result = session.run("functionalize", program)
    assert not result.records[0].modified
    assert result.program == program


def test_nodes_keep_their_source_lines(session: Session) -> None:
    program = session.from_exported_program(torch.export.export(Writing(), (X,)))
    result = session.run("functionalize", program).program
    for target in (aten.mul.Tensor, aten.relu.default):
        (node,) = result.graph.find_nodes(op="call_function", target=target)
        assert __file__ in node.meta["stack_trace"]


def test_sizes_stay_dynamic(session: Session) -> None:
    batch = {"x": {0: torch.export.Dim("batch", min=2, max=9)}}
    for function in (writes_view, lambda x: x.sin().mul_(2.0)):
        exported = torch.export.export(as_module(function), (X,), dynamic_shapes=batch)
        result = session.run("functionalize", session.from_exported_program(exported)).program
        more = torch.randn(7, 4)
        torch.testing.assert_close(result(more), function(more))
        assert not writes(result)


def test_bodies_of_regions_become_pure(session: Session) -> None:
    def branching(x: Tensor) -> Tensor:
        def writes_copy(y: Tensor) -> Tensor:
            z = y.clone()
            z.add_(1.0)
            return z.sin()

        chosen: Tensor = torch.cond(x.sum() > 0, writes_copy, lambda y: y.cos(), (x,))
        return chosen

    program = session.from_exported_program(torch.export.export(as_module(branching), (X,)))
    assert writes(program)
    result = session.run("functionalize", program).program
    assert not writes(result)
    for x in (X + 1, X - 1):
        torch.testing.assert_close(result(x), branching(x))


def test_a_write_that_cannot_be_expressed_is_refused(session: Session) -> None:
    program = session.capture(
        lambda x: torch.cond(x.sum() > 0, lambda y: y.sin(), lambda y: y.cos(), (x,)), (X,)
    )
    body = program.graph_module.true_graph_0
    (sin,) = body.graph.find_nodes(op="call_function", target=aten.sin.default)
    sin.target = aten.sin_.default
    with pytest.raises(PassError):
        session.run("functionalize", program)
