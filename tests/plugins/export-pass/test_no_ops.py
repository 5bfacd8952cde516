"""`remove-no-ops`: exactly what changes neither values, types, strides, aliases nor gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import Tensor, nn
from torch.fx import GraphModule

from hopyard import Program, Session, make_fx
from hopyard.hops import bound
from hopyard.verify import verify, walk_graphs
from hopyard_export_pass import RemoveNoOps

aten = torch.ops.aten
Capture = Callable[..., Program]


def called(graph_module: GraphModule) -> list[Any]:
    return [
        node.target
        for _, body in walk_graphs(graph_module)
        for node in body.graph.nodes
        if isinstance(node.target, type(aten.add.Tensor))
    ]


def cleaned(function: Callable[..., Any], *inputs: Any) -> list[Any]:
    """The operators left of a function; `sin` around it keeps its result inside."""
    graph_module = make_fx(lambda *args: torch.sin(function(*args)), tracing_mode="fake")(*inputs)
    expected = graph_module(*inputs)
    before = called(graph_module)
    result = RemoveNoOps()(graph_module)
    verify(graph_module, propagate=True)
    torch.testing.assert_close(graph_module(*inputs), expected, rtol=0, atol=0, equal_nan=True)
    after = called(graph_module)
    assert result.modified is (after != before)
    assert after.pop() is aten.sin.default
    return after


FLOATS = torch.tensor([[-0.0, 0.0, 1.5], [float("inf"), -1e-45, float("nan")]])
INTEGERS = torch.arange(6).reshape(2, 3)

NO_OPS: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    "clone": (torch.clone, FLOATS),
    "to-copy": (lambda x: aten._to_copy(x, dtype=torch.float32), FLOATS),
    "unsafe-view": (lambda x: aten._unsafe_view(x, [2, 3]), FLOATS),
    "alias": (aten.alias, FLOATS),
    "view": (lambda x: x.view(2, 3), FLOATS),
    "expand": (lambda x: aten.expand(x, [2, 3]), FLOATS),
    "permute": (lambda x: x.permute(0, 1), FLOATS),
    "slice": (lambda x: aten.slice(x, 0, 0, 2), FLOATS),
    "slice-to-the-end": (lambda x: aten.slice(x, 1), FLOATS),
    "squeeze": (lambda x: aten.squeeze.dim(x, 0), FLOATS),
    "transpose": (lambda x: aten.transpose(x, 1, 1), FLOATS),
    "times-one": (lambda x: x * 1, FLOATS),
    "times-one-point-zero": (lambda x: x * 1.0, FLOATS),
    "through-one": (lambda x: x / 1, FLOATS),
    "minus-zero": (lambda x: x - 0, FLOATS),
    "minus-zero-point-zero": (lambda x: x - 0.0, FLOATS),
    "integer-plus-zero": (lambda x: x + 0, INTEGERS),
    "integer-times-one": (lambda x: x * 1, INTEGERS),
    "several": (lambda x: (x.view(2, 3) * 1).clone().permute(0, 1), FLOATS),
}


@pytest.mark.parametrize("name", NO_OPS)
def test_no_ops_go(name: str) -> None:
    function, x = NO_OPS[name]
    assert cleaned(function, x) == []


OPERATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    "plus-zero-changes-minus-zero": (lambda x: x + 0, FLOATS),
    "minus-minus-zero": (lambda x: x - (-0.0), FLOATS),
    "plus-zero-times-infinity": (lambda x: torch.add(x, 0, alpha=2), INTEGERS),
    "other-type": (lambda x: x * 1.0, INTEGERS),
    "boolean": (lambda x: x * 1, INTEGERS > 2),
    "true-division": (lambda x: x / 1, INTEGERS),
    "complex": (lambda x: x * 1, torch.tensor([complex(float("inf"), 0)])),
    "conversion": (lambda x: x.to(torch.float64), FLOATS),
    "other-strides": (lambda x: x.t().contiguous(), FLOATS),
    "transposition": (lambda x: x.t(), torch.ones(3, 3)),
    "shorter": (lambda x: x[:1], FLOATS),
    "broadcast": (lambda x: x.expand(2, 2, 3), FLOATS),
    "conjugate": (lambda x: torch.conj(x), torch.tensor([1j])),
    "number-first": (lambda x: 1 - x, FLOATS),
    "stops-gradients": (lambda x: x.detach(), FLOATS),
    "elsewhere-in-the-storage": (lambda x: torch.as_strided(x, (2,), (1,), 3), torch.ones(2)),
    "by-a-tensor": (lambda x: x * torch.ones(3), FLOATS),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_does_something_stays(name: str) -> None:
    function, x = OPERATIONS[name]
    if name == "elsewhere-in-the-storage":
        x = torch.arange(6.0)[:2]
    graph_module = make_fx(lambda x: torch.sin(function(x)), tracing_mode="fake")(x)
    before = called(graph_module)
    assert RemoveNoOps()(graph_module).modified is False
    assert called(graph_module) == before


class TestAliases:
    def check(
        self, capture: Capture, session: Session, function: Any, *inputs: Tensor
    ) -> list[Any]:
        """Run eager and the cleaned program; what shares storage with what must be the same."""
        program = session.run("remove-no-ops", capture(function, *inputs)).program
        found, expected = program(*inputs), function(*inputs)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        assert self.sharing(inputs, found) == self.sharing(inputs, expected)
        return called(program.graph_module)

    def sharing(self, inputs: tuple[Tensor, ...], outputs: Any) -> list[Any]:
        tensors = [*inputs, *(outputs if isinstance(outputs, tuple) else (outputs,))]
        storages = [tensor.untyped_storage().data_ptr() for tensor in tensors]
        objects = [id(tensor) for tensor in tensors]
        return [
            (storages.index(storage), objects.index(identity))
            for storage, identity in zip(storages, objects, strict=True)
        ]

    @pytest.mark.parametrize(
        "function",
        [
            lambda x: x.clone(),
            lambda x: x * 1,
            lambda x: x.clone().view(-1),
            lambda x: x.view(2, 3).clone().t(),
            lambda x: (x * 1).unsqueeze(0)[0],
            lambda x: (x, x.clone()),
            lambda x: torch.split(x.clone(), 1),
        ],
    )
    def test_a_copy_that_the_caller_could_write_to_stays(
        self, capture: Capture, session: Session, function: Callable[[Tensor], Any]
    ) -> None:
        left = self.check(capture, session, function, torch.randn(2, 3))
        assert {aten.clone.default, aten.mul.Tensor} & set(left)

    def test_a_copy_that_is_copied_again_goes(self, capture: Capture, session: Session) -> None:
        left = self.check(capture, session, lambda x: x.clone().clone(), torch.randn(2))
        assert left == [aten.clone.default]

    def test_a_returned_view_is_not_its_operand(self, capture: Capture, session: Session) -> None:
        left = self.check(capture, session, lambda x: x.view(2, 3), torch.randn(2, 3))
        assert left == [aten.view.default]

    def test_a_view_of_a_view_goes(self, capture: Capture, session: Session) -> None:
        left = self.check(capture, session, lambda x: x.view(2, 3).view(6), torch.randn(2, 3))
        assert left == [aten.view.default]

    def test_a_copy_through_a_region_stays(self, capture: Capture, session: Session) -> None:
        region = bound("export_pass_tests__region")
        left = self.check(
            capture, session, lambda x: region(lambda t: t.t(), x.clone()), torch.randn(2, 3)
        )
        assert aten.clone.default in left


def test_bodies_of_regions(session: Session, capture: Capture) -> None:
    region = bound("export_pass_tests__region")

    def function(x: Tensor) -> Tensor:
        return region(lambda t: torch.sin(t.clone() * 1) + 1, torch.cos(x))

    x = torch.randn(2)
    result = session.run("remove-no-ops", capture(function, x))
    assert called(result.program.graph_module) == [
        aten.cos.default,
        aten.sin.default,
        aten.add.Tensor,
    ]
    torch.testing.assert_close(result.program(x), function(x), rtol=0, atol=0)


def test_graphs_that_write_are_left_alone() -> None:
    def function(x: Tensor) -> Tensor:
        before = x.clone()
        x.add_(1)
        return torch.sin(before)

    graph_module = make_fx(function, tracing_mode="fake")(torch.ones(2))
    assert RemoveNoOps()(graph_module).modified is False
    assert aten.clone.default in called(graph_module)


def test_dropout_outside_of_training() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sin(nn.functional.dropout(x, 0.5, self.training).contiguous())

    exported = torch.export.export(Model().eval(), (torch.randn(2, 3),))
    graph_module = exported.graph_module
    assert RemoveNoOps()(graph_module).modified is True
    assert called(graph_module) == [aten.sin.default]
    training = torch.export.export(Model(), (torch.randn(2, 3),)).graph_module
    RemoveNoOps()(training)
    assert aten.dropout.default in called(training)


def test_programs_compute_what_they_did(
    session: Session, capture: Capture, case: tuple[Callable[..., Any], tuple[Any, ...]]
) -> None:
    target, inputs = case
    program = capture(copy.deepcopy(target), *inputs)
    result = session.run("remove-no-ops", program)
    for _ in range(2):
        torch.testing.assert_close(result.program(*inputs), target(*inputs), rtol=0, atol=0)


STEPS: dict[str, Callable[[Tensor], Tensor]] = {
    "clone": torch.clone,
    "one": lambda x: x * 1,
    "zero": lambda x: x - 0,
    "plus": lambda x: x + 0,
    "view": lambda x: x.reshape(x.shape).view_as(x),
    "transpose": lambda x: x.t(),
    "contiguous": lambda x: x.contiguous(),
    "slice": lambda x: x[:],
    "negative": torch.neg,
    "alias": aten.alias,
}


@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=7), st.booleans())
def test_any_chain_keeps_values_strides_and_aliases(names: list[str], square: bool) -> None:
    def function(x: Tensor) -> Tensor:
        for name in names:
            x = STEPS[name](x)
        return x

    x = torch.tensor([[-0.0, 2.0], [3.0, 4.0]]) if square else FLOATS[:, :2].t()[:1]
    with torch.no_grad():
        graph_module = make_fx(function, tracing_mode="fake")(x)
        expected = graph_module(x)
        RemoveNoOps()(graph_module)
        found = graph_module(x)
    verify(graph_module, propagate=True)
    assert torch.equal(found.signbit(), expected.signbit())
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    # In dimensions of one element, fake tensors have other strides than real ones.
    assert found.squeeze().stride() == expected.squeeze().stride()
    assert (found is x) == (expected is x)
    storages = [value.untyped_storage().data_ptr() for value in (x, found, expected)]
    assert (storages[0] == storages[1]) == (storages[0] == storages[2])
