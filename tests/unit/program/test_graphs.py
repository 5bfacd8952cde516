"""Editing graphs: a copy shares tensors and nothing else, and programs take graphs that fit."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

import hopyard
from hopyard import Program
from hopyard._graph_copy import copy_graph_module
from hopyard.errors import VerificationError
from hopyard_hookspecs import Hop, hookimpl

REGION = Hop("test_graphs__region")


class Plugin:
    """Registers a region operator."""

    @hookimpl
    def hopyard_register_hops(self) -> list[Hop]:
        return [REGION]


@pytest.fixture(scope="module")
def session() -> hopyard.Session:
    return hopyard.Session(discover=False, plugins=[Plugin()])


class Nested(nn.Module):
    def __init__(self, session: hopyard.Session) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.region = session.hop("test_graphs__region")

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
        self.calls.add_(1)

        def inner(a: Tensor) -> Tensor:
            return a.sin() + torch.tensor([1.0, 2.0, 3.0])

        def outer(a: Tensor) -> Tensor:
            return self.region(inner, a * 2).cos()

        return self.region(outer, self.linear(x)), [y, x + y]


@pytest.fixture
def program(session: hopyard.Session) -> Program:
    with torch.no_grad():
        return session.capture(Nested(session), (torch.ones(2, 3), torch.ones(2, 3)))


def graphs(graph_module: GraphModule) -> list[tuple[str, GraphModule]]:
    modules = graph_module.named_modules()
    return [(name, each) for name, each in modules if isinstance(each, GraphModule)]


def describe(graph_module: GraphModule) -> list[object]:
    return [
        (
            path,
            type(each).__name__,
            [
                (n.name, n.op, n.target, str(n.args), str(n.kwargs), n.type, dict(n.meta))
                for n in each.graph.nodes
            ],
            dict(each.meta),
        )
        for path, each in graphs(graph_module)
    ]


def test_a_copy_describes_the_same(program: Program) -> None:
    copied = copy_graph_module(program.graph_module)
    assert describe(copied) == describe(program.graph_module)
    assert len(graphs(copied)) == 3
    copied.graph.lint()


def test_a_copy_shares_tensors_and_nothing_else(program: Program) -> None:
    source = program.graph_module
    copied = copy_graph_module(source)
    for (_, ours), (_, theirs) in zip(graphs(copied), graphs(source), strict=True):
        assert ours is not theirs
        assert not set(ours.graph.nodes) & set(theirs.graph.nodes)
        for one, other in zip(ours.graph.nodes, theirs.graph.nodes, strict=True):
            assert one.meta is not other.meta
            assert all(one.meta[key] is other.meta[key] for key in one.meta)
            assert all(node.graph is ours.graph for node in one.all_input_nodes)
        tensors = [(k, v) for k, v in vars(ours).items() if isinstance(v, Tensor)]
        tensors += list(ours.named_parameters(recurse=False)) + list(
            ours.named_buffers(recurse=False)
        )
        for name, tensor in tensors:
            assert getattr(theirs, name) is tensor


def spoil(graph_module: GraphModule) -> None:
    """Do to every graph what passes do."""
    for _, each in graphs(graph_module):
        graph = each.graph
        for node in list(graph.nodes):
            node.meta["val"] = None
            node.meta["mine"] = True
            if node.target is torch.ops.aten.cos.default:
                node.target = torch.ops.aten.tan.default
            if node.op == "call_function" and node.target is not operator.getitem:
                with graph.inserting_after(node):
                    extra = graph.call_function(torch.ops.aten.neg.default, (node,))
                node.replace_all_uses_with(extra, lambda user, extra=extra: user is not extra)
        each.meta["mine"] = True
        each.recompile()


def test_editing_a_copy_leaves_the_source(program: Program) -> None:
    before = describe(program.graph_module)
    x, y = torch.randn(2, 3), torch.randn(2, 3)
    with torch.no_grad():
        expected = program(x, y)
        spoil(copy_graph_module(program.graph_module))
        assert describe(program.graph_module) == before
        torch.testing.assert_close(program(x, y), expected)


def test_a_copy_names_new_nodes_as_its_source_would(program: Program) -> None:
    for graph_module in (program.graph_module, copy_graph_module(program.graph_module)):
        graph = copy_graph_module(graph_module).graph
        names = {node.name for node in graph.nodes}
        with graph.inserting_before(graph.output_node()):
            added = [graph.call_function(torch.ops.aten.add.Tensor, (1, 1)).name for _ in range(3)]
        assert len({*names, *added}) == len(names) + 3


def test_a_copy_runs_alone(program: Program) -> None:
    copied = copy_graph_module(copy_graph_module(program.graph_module))
    x, y = torch.randn(2, 3), torch.randn(2, 3)
    with torch.no_grad():
        torch.testing.assert_close(program.with_graph(copied)(x, y), program(x, y))


def test_passes_share_parameters_and_copy_none(program: Program) -> None:
    changed = program.with_graph(copy_graph_module(program.graph_module))
    assert changed is not program
    for name, tensor in program.state.items():
        assert changed.state[name] is tensor
    for name, tensor in program.constants.items():
        assert changed.constants[name] is tensor
    exported = changed.to_exported_program()
    for name, tensor in exported.state_dict.items():
        assert tensor.data_ptr() == program.state[name].data_ptr()


def remove_an_input(graph_module: GraphModule) -> None:
    graph_module.graph.erase_node(placeholders(graph_module)[-1])


def placeholders(graph_module: GraphModule) -> list[Node]:
    return list(graph_module.graph.find_nodes(op="placeholder"))


def add_an_input(graph_module: GraphModule) -> None:
    with graph_module.graph.inserting_after(placeholders(graph_module)[-1]):
        graph_module.graph.placeholder("more")


def rename_an_input(graph_module: GraphModule) -> None:
    placeholders(graph_module)[0].name = "other"


def swap_inputs(graph_module: GraphModule) -> None:
    first, second = placeholders(graph_module)[-2:]
    second.append(first)


def drop_an_output(graph_module: GraphModule) -> None:
    output = graph_module.graph.output_node()
    output.args = (output.args[0][:-1],)


def add_an_output(graph_module: GraphModule) -> None:
    output = graph_module.graph.output_node()
    output.args = ((*output.args[0], output.args[0][0]),)


def return_one_node(graph_module: GraphModule) -> None:
    output = graph_module.graph.output_node()
    output.args = (output.args[0][-1],)


def return_a_plain_value(graph_module: GraphModule) -> None:
    output = graph_module.graph.output_node()
    output.args = ((*output.args[0][:-1], 3),)


def plain_value_for_a_write(graph_module: GraphModule) -> None:
    output = graph_module.graph.output_node()
    output.args = ((3, *output.args[0][1:]),)


@pytest.mark.parametrize(
    "edit",
    [
        remove_an_input,
        add_an_input,
        rename_an_input,
        swap_inputs,
        drop_an_output,
        add_an_output,
        return_one_node,
        return_a_plain_value,
        plain_value_for_a_write,
    ],
)
def test_a_graph_that_does_not_fit_is_refused(
    session: hopyard.Session, edit: Callable[[GraphModule], None]
) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor, unused: Tensor) -> tuple[Tensor, Tensor]:
            self.calls.add_(1)
            return x + 1, x * 2

    program = session.capture(Counting(), (torch.ones(2), torch.ones(2)))
    graph_module = copy_graph_module(program.graph_module)
    edit(graph_module)
    with pytest.raises(VerificationError) as raised:
        program.with_graph(graph_module)
    assert raised.value.stage == "with_graph"
    assert "a pass must" in raised.value.hint


def test_a_new_graph_may_return_other_nodes(session: hopyard.Session) -> None:
    program = session.capture(lambda a: (a + 1, a * 2), (torch.ones(2),))
    graph_module = copy_graph_module(program.graph_module)
    graph = graph_module.graph
    output = graph.output_node()
    first, second = output.args[0]
    with graph.inserting_before(output):
        renamed = graph.call_function(torch.ops.aten.neg.default, (first,))
        renamed.meta = dict(first.meta)
    output.args = ((renamed, second),)
    graph_module.recompile()
    changed = program.with_graph(graph_module)
    assert changed.signature.user_outputs == (renamed.name, second.name)
    assert changed(torch.ones(2))[0].tolist() == [-2, -2]
    changed.to_exported_program().validate()
    assert program(torch.ones(2))[0].tolist() == [2, 2]
