"""Graph modules that generate and compile their code late, and leave their graph as it was."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.fx import Graph, GraphModule
from torch.fx.graph import CodeGen

from hopyard._torch.graphs import LazyGraphModule as TorchLazyGraphModule
from hopyard._torch.graphs import fx_settings
from hopyard.replaying import LazyGraphModule


def graph() -> Graph:
    """Return a graph with a node whose name its code needs for another object."""
    made = Graph()
    x = made.placeholder("x")
    first = made.call_function(torch.relu, (x,), name="torch")
    second = made.call_function(torch.add, (first, x), {"alpha": 2})
    made.output((second, [first, second]))
    return made


def lookup(module: GraphModule) -> list[list[str]]:
    """Return what the look-up table of a module's graph finds, in its own order."""
    return [
        [node.name for node in module.graph.find_nodes(op=op, target=target, sort=False)]
        for op, target in (
            ("placeholder", None),
            ("call_function", torch.relu),
            ("call_function", torch.add),
        )
    ]


def test_the_code_is_the_one_of_torch() -> None:
    module = LazyGraphModule(nn.Module(), graph())
    assert module.code == GraphModule(nn.Module(), graph()).code
    given = torch.tensor([-1.0, 2.0])
    result, (first, second) = module(given)
    assert first.equal(given.relu())
    assert result is second
    assert second.equal(given.relu() + 2 * given)


@pytest.mark.parametrize(
    "generate",
    [lambda module: module.code, lambda module: module(torch.ones(1)), copy.deepcopy, str],
    ids=["code", "call", "copy", "print"],
)
def test_the_look_up_table_is_as_it_was(generate) -> None:
    module = LazyGraphModule(nn.Module(), graph())
    table, found = module.graph._find_nodes_lookup_table, lookup(module)
    assert all(found)
    generate(module)
    assert module.graph._find_nodes_lookup_table is table
    assert lookup(module) == found
    # Nodes are moved again when they change.
    (node,) = module.graph.find_nodes(op="call_function", target=torch.relu)
    node.target = torch.sigmoid
    assert module.graph.find_nodes(op="call_function", target=torch.sigmoid) == [node]
    assert not module.graph.find_nodes(op="call_function", target=torch.relu)
    module.recompile()
    assert module(torch.zeros(1))[1][0].item() == 0.5


def test_reading_the_code_does_not_compile_it(monkeypatch) -> None:
    compiled: list[str] = []
    compiling = torch.fx.graph_module._forward_from_src

    def compile_source(src, *args):
        compiled.append(src)
        return compiling(src, *args)

    monkeypatch.setattr(torch.fx.graph_module, "_forward_from_src", compile_source)
    module = LazyGraphModule(nn.Module(), graph())
    read = module.code
    assert not compiled
    module(torch.ones(1))
    module(torch.ones(1))
    assert compiled == [read]
    assert module.code is read


def edit(module: GraphModule) -> None:
    """Let a module subtract what it has added."""
    (node,) = module.graph.find_nodes(op="call_function", target=torch.add)
    node.target = torch.sub


as_in_torch = pytest.mark.parametrize("kind", [TorchLazyGraphModule, LazyGraphModule])


@as_in_torch
def test_code_that_was_read_is_the_code_that_runs(kind) -> None:
    module = kind(nn.Module(), graph())
    read = module.code
    edit(module)
    assert module.code == read
    assert module(torch.ones(1))[0].item() == 3.0
    assert module.code == read
    module.recompile()
    assert "torch.sub" in module.code
    assert module(torch.ones(1))[0].item() == -1.0


@as_in_torch
def test_an_edited_graph_is_what_is_pickled(kind) -> None:
    module = kind(nn.Module(), graph())
    read = module.code
    edit(module)
    loaded = pickle.loads(pickle.dumps(module))
    assert loaded(torch.ones(1))[0].item() == -1.0
    assert "torch.sub" in module.code != read


@as_in_torch
def test_modules_of_one_class_have_code_of_their_own(kind) -> None:
    one, other = (kind(nn.Module(), graph()) for _ in range(2))
    edit(other)
    assert "torch.add" in one.code
    assert "torch.sub" in other.code
    assert "torch.add" in copy.deepcopy(one).code
    assert one(torch.ones(1))[0].item() == 3.0
    assert other(torch.ones(1))[0].item() == -1.0


def test_the_profiler_finds_its_marks() -> None:
    with fx_settings.patch(enrich_profiler_metadata=True):
        module = LazyGraphModule(nn.Module(), graph())
        assert module.code == GraphModule(nn.Module(), graph()).code
        assert "PLACEHOLDER" not in module.code
        assert module(torch.ones(1))[0].item() == 3.0


class Looking(CodeGen):
    """Generates code that tells how often the graph calls relu; fails if that is never."""

    def gen_fn_def(self, *args: object, **options: object) -> str:
        number = len(self.graph.find_nodes(op="call_function", target=torch.relu))
        if not number:
            raise LookupError("no relu")
        return f"# {number} relu\n" + super().gen_fn_def(*args, **options)


def test_a_generator_may_look_nodes_up() -> None:
    made = graph()
    generator = Looking()
    generator.graph = made
    made.set_codegen(generator)
    module = LazyGraphModule(nn.Module(), made)
    generator.graph = module.graph
    assert "# 1 relu" in module.code


def test_a_generator_that_fails_leaves_the_table() -> None:
    made = graph()
    generator = Looking()
    made.set_codegen(generator)
    module = LazyGraphModule(nn.Module(), made)
    generator.graph = module.graph
    (node,) = module.graph.find_nodes(op="call_function", target=torch.relu)
    node.target = torch.sigmoid
    table = module.graph._find_nodes_lookup_table
    with pytest.raises(LookupError, match="no relu"):
        module(torch.ones(1))
    assert module.graph._find_nodes_lookup_table is table
    assert [repr(each) for each in module.graph.nodes] == [each.name for each in module.graph.nodes]
    node.target = torch.relu
    assert module(torch.ones(1))[0].item() == 3.0


def test_it_is_pickled_by_its_code() -> None:
    loaded = pickle.loads(pickle.dumps(LazyGraphModule(nn.Module(), graph())))
    assert loaded(torch.ones(1))[0].item() == 3.0
