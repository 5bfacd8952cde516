"""Graph modules that generate and compile their code late, and leave their graph as it was."""

from __future__ import annotations

import copy
import inspect
import pickle
import sys
import threading

import pytest
import torch
from torch import nn
from torch.fx import Graph, GraphModule
from torch.fx.graph import CodeGen

from hopyard._torch.graphs import LazyGraphModule as TorchLazyGraphModule
from hopyard._torch.graphs import fx_settings
from hopyard.replaying import LazyGraphModule

ONE = torch.ones(1)


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


class Lacking(CodeGen):
    """Generates no code, since it lacks something."""

    def gen_fn_def(self, *args: object, **options: object) -> str:
        return self.nothing


def test_a_generator_that_lacks_something_says_so() -> None:
    made = graph()
    made.set_codegen(Lacking())
    module = LazyGraphModule(nn.Module(), made)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="'Lacking' object has no attribute 'nothing'"):
            module(ONE)
    made.set_codegen(CodeGen())
    module.recompile()
    assert module(ONE)[0].item() == 3.0


def test_it_is_pickled_by_its_code() -> None:
    loaded = pickle.loads(pickle.dumps(LazyGraphModule(nn.Module(), graph())))
    assert loaded(torch.ones(1))[0].item() == 3.0


class Outer(nn.Module):
    """A module with a graph module in it."""

    def __init__(self, inner: GraphModule) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)[0] * 2


def fresh() -> LazyGraphModule:
    """Return a graph module without code."""
    return LazyGraphModule(nn.Module(), graph())


def read() -> LazyGraphModule:
    """Return a graph module whose code was read, and not compiled."""
    module = fresh()
    assert module.code
    return module


def recompiled() -> LazyGraphModule:
    """Return a graph module whose code is out of date."""
    module = fresh()
    module(torch.ones(1))
    module.recompile()
    return module


as_any = pytest.mark.parametrize("make", [fresh, read, recompiled])


@as_any
def test_what_it_takes_can_be_read(make) -> None:
    assert list(inspect.signature(make().forward).parameters) == ["x"]


@as_any
def test_hooks_run_once(make) -> None:
    module, calls = make(), []
    module.register_forward_pre_hook(lambda *_: calls.append("before"))
    module.register_forward_hook(lambda *_: calls.append("after"))
    module(torch.ones(1))
    module(torch.ones(1))
    assert calls == ["before", "after"] * 2


@as_any
def test_dynamo_looks_into_it(make) -> None:
    torch.compiler.reset()
    compiled = torch.compile(Outer(make()), backend="eager", fullgraph=True)
    assert compiled(torch.ones(1)).item() == 6.0
    with torch.compiler.set_stance("fail_on_recompile"):
        assert compiled(torch.zeros(1)).item() == 0.0


@as_any
def test_strict_export_looks_into_it(make) -> None:
    torch.compiler.reset()
    program = torch.export.export(Outer(make()), (torch.ones(1),), strict=True)
    assert "relu" in str(program.graph)
    assert program.module()(torch.ones(1)).item() == 6.0


@as_any
def test_it_can_be_traced(make) -> None:
    assert "relu" in str(torch.fx.symbolic_trace(Outer(make())).graph)


@pytest.mark.parametrize("generate", [lambda module: module.code, lambda module: module(ONE)])
def test_threads_may_need_the_code_at_once(generate) -> None:
    long = graph()
    output = long.output_node()
    last = output.args[0][0]
    with long.inserting_before(output):
        for _ in range(300):
            last = long.call_function(torch.relu, (last,))
    output.args = (last,)
    expected = GraphModule(nn.Module(), long).code
    module, results = LazyGraphModule(nn.Module(), long), []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [
            threading.Thread(target=lambda: results.append(generate(module))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(results) == 8
    assert module.code == expected
    assert module(ONE).item() == 3.0
    assert "python_code" not in vars(module.graph)
    assert not any(node._repr_fn for node in module.graph.nodes)
