"""`cse`: what is computed twice is computed once, where nobody could notice."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import Graph, GraphModule
from torch.fx.passes.dialect.common.cse_pass import CSEPass, get_CSE_banned_ops

from hopyard import Program, Session, make_fx
from hopyard.hops import bind
from hopyard.verify import verify, walk_graphs
from hopyard_export_pass import EliminateCommonSubexpressions
from hopyard_hookspecs import Hop

aten = torch.ops.aten
region = bind(Hop("cse_tests__region"))
scaled = bind(Hop("cse_tests__scaled", lambda body, *xs, factor: factor * body(*xs)))
Capture = Callable[..., Program]
X = torch.linspace(-1, 1, 12).reshape(3, 4)


def count(program: Program, target: object) -> int:
    return sum(
        len(body.graph.find_nodes(op="call_function", target=target))
        for _, body in walk_graphs(program.graph_module)
    )


def merged(session: Session, capture: Capture, function: Callable[..., Any], *args: Any) -> Program:
    """Run the pass, compare with the program before, and with what verification computes."""
    program = capture(function, *(args or (X,)))
    result = session.run("cse", program)
    torch.manual_seed(0)
    expected = program(*(args or (X,)))
    torch.manual_seed(0)
    torch.testing.assert_close(result.program(*(args or (X,))), expected, rtol=0, atol=0)
    verify(result.program.graph_module, propagate=True)
    assert session.run("cse", result.program).records[0].modified is False
    return result.program


def test_chains_that_are_alike_become_one(session: Session, capture: Capture) -> None:
    program = merged(
        session, capture, lambda x: x.sin().mul(2.0).exp() + x.sin().mul(2.0).exp().neg()
    )
    assert [count(program, op) for op in (aten.sin.default, aten.mul.Tensor, aten.exp.default)] == [
        1,
        1,
        1,
    ]


def test_what_is_shared_keeps_its_metadata(session: Session, capture: Capture) -> None:
    program = capture(lambda x: x.sin() + x.sin().neg(), X)
    merged_program = session.run("cse", program).program
    before = {node.name: node.meta for node in program.graph.nodes}
    for node in merged_program.graph.nodes:
        assert node.meta["val"] is before[node.name]["val"] if "val" in node.meta else True
        assert node.meta.get("stack_trace") == before[node.name].get("stack_trace")


@pytest.mark.parametrize(
    ("function", "target", "left"),
    [
        (lambda x: torch.rand_like(x) + torch.rand_like(x), aten.rand_like.default, 2),
        (lambda x: x.bernoulli() + x.bernoulli(), None, 2),
        (lambda x: torch.dropout(x, 0.5, True) + torch.dropout(x, 0.5, True), None, 2),
        (lambda x: x.mul(2) + x.mul(2.0), aten.mul.Tensor, 2),
        (lambda x: x.mul(1) + x.mul(True), aten.mul.Tensor, 2),
        (lambda x: x.div(0.0) + x.div(-0.0), aten.div.Tensor, 2),
        (lambda x: x.mul(float("nan")) + x.mul(float("nan")), aten.mul.Tensor, 1),
        (lambda x: x.sum(0).sum() + x.sum(1).sum(), aten.sum.dim_IntList, 2),
        (lambda x: x.view(4, 3).sum(1) + x.view(4, 3).prod(1), aten.view.default, 1),
        (lambda x: x.to(torch.float64).sum() + x.to(torch.float16).sum(), aten._to_copy.default, 2),
        (lambda x: x.topk(2)[0] + x.topk(2)[0].neg(), aten.topk.default, 1),
        (lambda x: x.add(x) + x.add(x).neg(), aten.add.Tensor, 2),
    ],
)
def test_only_what_computes_the_same_is_merged(
    function: Callable[..., Any], target: Any, left: int, session: Session, capture: Capture
) -> None:
    x = X.abs().clamp(0.1, 0.9)
    program = capture(function, x)
    torch.manual_seed(3)
    expected = program(x)
    result = session.run("cse", program).program
    torch.manual_seed(3)
    torch.testing.assert_close(result(x), expected, equal_nan=True)
    random = [
        n
        for n in result.graph.nodes
        if torch.Tag.nondeterministic_seeded in getattr(n.target, "tags", ())
    ]
    assert (len(random) if target is None else count(result, target)) == left


def test_a_seed_draws_what_it_drew(session: Session, capture: Capture) -> None:
    def function(x: Tensor) -> Tensor:
        return torch.rand_like(x) * x.sin() + torch.rand_like(x) * x.sin()

    program = merged(session, capture, function)
    assert count(program, aten.sin.default) == 1


def test_numbers_that_are_read_stay(session: Session, capture: Capture) -> None:
    def function(x: Tensor) -> Tensor:
        first, second = x.sum().item(), x.sum().item()
        return x * first + second

    program = merged(session, capture, function)
    assert count(program, aten._local_scalar_dense.default) == 2
    assert count(program, aten.sum.default) == 1


def test_sizes_that_depend_on_data_stay(session: Session, capture: Capture) -> None:
    program = merged(session, capture, lambda x: (x.nonzero(), x.nonzero() + 1))
    assert count(program, aten.nonzero.default) == 2


def test_results_that_a_caller_may_write_to_stay_apart(session: Session, capture: Capture) -> None:
    program = merged(session, capture, lambda x: (x.sin(), x.sin()))
    first, second = program(X)
    first.zero_()
    torch.testing.assert_close(second, X.sin())
    program = merged(session, capture, lambda x: (x.sin().view(-1), x.sin().t()))
    first, second = program(X)
    first.zero_()
    torch.testing.assert_close(second, X.sin().t())
    program = merged(session, capture, lambda x: (x.sin(), x.sin() + 1, x.sin() + 2))
    assert count(program, aten.sin.default) == 1


def test_inner_values_join_what_is_returned(session: Session, capture: Capture) -> None:
    program = merged(session, capture, lambda x: (x.sin().neg(), x.sin(), x.sin().exp(), x.sin()))
    assert count(program, aten.sin.default) == 2


def test_bodies_of_regions_are_entered(session: Session, capture: Capture) -> None:
    def function(x: Tensor) -> Tensor:
        inner = region(lambda y: y.sin() + y.sin().neg(), x)
        chosen = torch.cond(x.sum() > 0, lambda y: y.cos() * y.cos(), lambda y: y.exp(), (x,))
        return inner + chosen + x.sin() + x.sin().neg()

    program = merged(session, capture, function)
    assert count(program, aten.sin.default) == 2
    assert count(program, aten.cos.default) == 1


def test_operators_that_do_more_than_run_their_bodies_stay(
    session: Session, capture: Capture
) -> None:
    def function(x: Tensor) -> Tensor:
        def body(y: Tensor) -> Tensor:
            return y.sin()

        return scaled(body, x, factor=2.0) + scaled(body, x, factor=2.0)

    program = capture(function, X)
    result = session.run("cse", program).program
    assert len(result.graph.nodes) == len(program.graph.nodes)


def test_a_graph_that_writes_stays_as_it_is() -> None:
    graph = Graph()
    x = graph.placeholder("x")
    first = graph.call_function(aten.sin.default, (x,))
    written = graph.call_function(aten.add_.Tensor, (x, 1.0))
    second = graph.call_function(aten.sin.default, (x,))
    graph.output((first, written, second))
    for node in graph.nodes:
        node.meta["val"] = torch.ones(2)
    graph_module = GraphModule({}, graph)
    assert EliminateCommonSubexpressions()(graph_module).modified is False
    first_value, _, second_value = graph_module(torch.ones(2))
    assert not torch.equal(first_value, second_value)


def test_buffers_that_change_keep_their_values(session: Session, capture: Capture) -> None:
    class Running(torch.nn.Module):
        mean: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(3, 4))

        def forward(self, x: Tensor) -> Tensor:
            before = self.mean.sin()
            self.mean.add_(x.sin())
            return before + self.mean.sin() + x.sin()

    model, again = Running(), Running()
    program = session.run("cse", capture(model, X)).program
    assert count(program, aten.sin.default) == 3
    for _ in range(2):
        torch.testing.assert_close(program(X), again(X))
    torch.testing.assert_close(model.mean, again.mean)


def test_programs_that_are_trained_keep_their_gradients(session: Session) -> None:
    model = torch.nn.Linear(4, 4)

    def function(x: Tensor) -> Tensor:
        return model(x).relu() * model(x).relu()

    with torch.enable_grad():
        program = session.capture(function, (X,), pre_dispatch=True)
        result = session.run("cse", program).program
        assert count(result, aten.linear.default) == 1
        grads = []
        for each in (program, result):
            each(X).sum().backward()
            grads.append([parameter.grad for parameter in model.parameters()])
            model.zero_grad(set_to_none=True)
    torch.testing.assert_close(grads[0], grads[1])


def integer_and_float(x: Tensor) -> tuple[Tensor, ...]:
    y = x.to(torch.int64)
    return y * 1 + 0 * y, y * 1.0 + 0 * y


def through_a_view(x: Tensor) -> tuple[Tensor, ...]:
    y = x.clone()
    view = y.view(-1)
    before = view.sin()
    y.add_(1.0)
    return before + 0, view.sin() + 0


def returned_twice(x: Tensor) -> tuple[Tensor, ...]:
    first, second = x.sin(), x.sin()
    return first, second


@pytest.mark.parametrize("function", [integer_and_float, through_a_view, returned_twice])
def test_what_torchs_own_pass_gets_wrong_is_right(function: Callable[..., Any]) -> None:
    """As long as torch's pass fails here, wrapping it would not do."""
    expected = function(X)
    outcomes = []
    for transform in (CSEPass(get_CSE_banned_ops()), EliminateCommonSubexpressions()):
        graph_module = make_fx(function, tracing_mode="fake")(X)
        found = transform(graph_module).graph_module(X)
        same = all(
            torch.equal(ours, theirs) and ours.dtype == theirs.dtype
            for ours, theirs in zip(found, expected, strict=True)
        )
        outcomes.append(same and found[0] is not found[1])
    assert outcomes == [False, True]


def test_every_kind_of_program_keeps_its_numbers(
    session: Session, capture: Capture, case: tuple[Callable[..., Any], tuple[Any, ...]]
) -> None:
    target, inputs = case
    expected = copy.deepcopy(target)(*inputs)
    result = session.run("cse,dce", capture(target, *inputs)).program
    torch.testing.assert_close(result(*inputs), expected)
