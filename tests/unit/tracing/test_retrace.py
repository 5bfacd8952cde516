"""Graphs that are run to become other graphs: appended to, decomposed, decomposed in part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from functorch.experimental.control_flow import map as torch_map
from torch import Tensor, nn
from torch._decomp import core_aten_decompositions
from torch._functorch.aot_autograd import aot_export_joint_simple
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop
from torch._subclasses import FakeTensorMode
from torch.fx import Graph, GraphModule, Node, traceback
from torch.fx.experimental import proxy_tensor
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import hopyard
from hopyard.errors import CaptureError, UnsupportedError, UsageError
from hopyard.hops import bind
from hopyard.testing import assert_same_graph, describe_graph
from hopyard.tracing import (
    DecompositionInterpreter,
    DecompositionTable,
    GraphAppender,
    decompose,
    selective_decompose,
)
from hopyard_hookspecs import Hop

aten = torch.ops.aten

TABLE: DecompositionTable = {
    aten.silu.default: lambda x: x * aten.sigmoid(x),
    aten.sigmoid.default: lambda x: 1 / (1 + aten.exp(-x)),
    aten.addmm.default: lambda bias, x, y: bias + x @ y,
}


def small(x: Tensor, y: Tensor) -> Any:
    z = torch.nn.functional.silu(x @ y)
    return {"sum": z.sum(), "pair": (z, x.sigmoid())}, [y]


def in_place(x: Tensor, y: Tensor) -> Tensor:
    z = x.clone()
    z.view(-1).add_(1)
    return z.sigmoid_() @ y


def several(x: Tensor, y: Tensor) -> Any:
    values, indices = x.topk(2)
    return torch.split(y, 2), values.sigmoid(), indices


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.SiLU())
        self.register_buffer("scale", torch.full((4,), 2.0))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.inner(self.first(x)) * self.scale + y


def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(4, 4), torch.randn(4, 4)


def fakes() -> tuple[Tensor, ...]:
    mode = FakeTensorMode()
    return tuple(mode.from_tensor(value) for value in inputs())


def captured(function: Callable[..., Any]) -> GraphModule:
    return hopyard.make_fx(function)(*inputs())


def targets(graph_module: GraphModule) -> list[Any]:
    return [node.target for node in graph_module.graph.nodes if node.op == "call_function"]


def assert_alike(actual: GraphModule, expected: GraphModule) -> None:
    assert_same_graph(actual, expected)
    assert [(node.name, sorted(node.meta)) for node in actual.graph.nodes] == [
        (node.name, sorted(node.meta)) for node in expected.graph.nodes
    ]
    assert actual.code == expected.code


# Decomposing a graph


def decomposed(
    interpreter_type: Any, graph_module: GraphModule, values: Any, table: Any
) -> tuple[GraphModule, Any]:
    graph = Graph()
    interpreter = interpreter_type(graph_module, graph, table)
    result = interpreter.run(*values)
    return GraphModule(getattr(interpreter, "root", graph_module), graph), result


@pytest.mark.parametrize("function", [small, in_place, several])
@pytest.mark.parametrize("table", [None, TABLE, "core"], ids=["none", "own", "core"])
def test_a_decomposed_graph_is_torchs(function: Callable[..., Any], table: Any) -> None:
    chosen = core_aten_decompositions() if table == "core" else table
    graph_module = captured(function)
    graph_module.graph.set_codegen(torch.fx.graph.CodeGen())
    # On real inputs torch also records the operators with which it describes them.
    actual, _ = decomposed(DecompositionInterpreter, graph_module, fakes(), chosen)
    expected, _ = decomposed(proxy_tensor.DecompositionInterpreter, graph_module, fakes(), chosen)
    assert_alike(actual, expected)
    real, result = decomposed(DecompositionInterpreter, graph_module, inputs(), chosen)
    assert real.code == actual.code
    torch.testing.assert_close(result, graph_module(*inputs()))
    torch.testing.assert_close(real(*inputs()), graph_module(*inputs()))


def test_attributes_keep_their_names() -> None:
    values = fakes()
    with values[0].fake_mode:
        fake = GraphModule(Layers(), lowered())
    assert_alike(
        decomposed(DecompositionInterpreter, fake, values, TABLE)[0],
        decomposed(proxy_tensor.DecompositionInterpreter, fake, values, TABLE)[0],
    )
    module = Layers()
    graph_module = GraphModule(module, lowered())
    actual, _ = decomposed(DecompositionInterpreter, graph_module, inputs(), TABLE)
    reads = {str(node.target) for node in actual.graph.find_nodes(op="get_attr")}
    assert reads == {"first.weight", "first.bias", "inner.0.weight", "inner.0.bias", "scale"}
    assert actual.get_parameter("inner.0.weight") is module.inner[0].weight
    torch.testing.assert_close(actual(*inputs()), module(*inputs()))


def lowered() -> Graph:
    """Return the graph of the layers, which reads parameters itself instead of calling modules."""
    graph = Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    for name in ("first", "inner.0"):
        weight, bias = graph.get_attr(f"{name}.weight"), graph.get_attr(f"{name}.bias")
        turned = graph.call_function(aten.t.default, (weight,))
        x = graph.call_function(aten.addmm.default, (bias, x, turned))
    x = graph.call_function(aten.silu.default, (x,))
    x = graph.call_function(aten.mul.Tensor, (x, graph.get_attr("scale")))
    graph.output(graph.call_function(aten.add.Tensor, (x, y)))
    return graph


def test_nodes_are_added_to_what_a_graph_has() -> None:
    graph_module = captured(lambda x, y: x.sin() + y)
    graphs = []
    for kind in (DecompositionInterpreter, proxy_tensor.DecompositionInterpreter):
        graph = Graph()
        graph.call_function(aten.sin.default, (graph.placeholder("x_1"),))
        kind(graph_module, graph).run(*fakes())
        graphs.append(graph)
    names = [[node.name for node in graph.nodes] for graph in graphs]
    assert names[0] == names[1] == ["x_1", "sin_default", "x_2", "y_1", "sin", "add", "output"]


def test_metadata_is_taken_over_while_torch_preserves_it() -> None:
    graph_module = captured(small)
    for number, node in enumerate(graph_module.graph.nodes):
        node.meta["stack_trace"] = f'  File "model.py", line {number}, in forward\n'
        node.meta["nn_module_stack"] = {"": ("", f"Module{number}")}
    graphs = []
    for kind in (DecompositionInterpreter, proxy_tensor.DecompositionInterpreter):
        graph = Graph()
        with traceback.preserve_node_meta():
            kind(graph_module, graph, TABLE).run(*fakes())
        graphs.append(graph)
    kept = [
        [
            (node.name, node.meta.get("stack_trace"), node.meta.get("nn_module_stack"))
            for node in graph.nodes
            if node.op == "call_function"  # ours keeps the metadata of inputs as well
        ]
        for graph in graphs
    ]
    assert kept[0] == kept[1]
    assert len({trace for _, trace, _ in kept[0] if trace}) > 3


def test_regions_are_decomposed_as_well() -> None:
    graph_module = captured(branches)
    actual, result = decomposed(DecompositionInterpreter, graph_module, inputs(), TABLE)
    assert "true_graph_0" in dict(actual.named_children())
    assert aten.silu.default in targets(graph_module.true_graph_0)
    assert aten.silu.default not in targets(actual.true_graph_0)
    assert aten.exp.default in targets(actual.true_graph_0)
    torch.testing.assert_close(actual(*inputs()), graph_module(*inputs()))
    torch.testing.assert_close(result, graph_module(*inputs()))


def test_a_node_that_fails_is_named_and_nothing_stays() -> None:
    graph_module = captured(small)
    values = inputs()
    before = [sorted(value.__dict__) for value in values]

    def refuse(x: Tensor) -> Tensor:
        raise ValueError("not today")

    graph = Graph()
    interpreter = DecompositionInterpreter(graph_module, graph, {aten.sigmoid.default: refuse})
    with pytest.raises(CaptureError, match="not today") as caught:
        interpreter.run(*values)
    assert caught.value.partial_graph is graph
    assert [sorted(value.__dict__) for value in values] == before
    assert proxy_tensor.get_proxy_mode() is None


# Decomposing chosen nodes


def branches(x: Tensor, y: Tensor) -> Tensor:
    def body(a: Tensor, b: Tensor) -> Tensor:
        return torch.nn.functional.silu(a) @ b.sigmoid()

    return torch.cond(x.sum() > 0, body, lambda a, b: a @ b, (x, y)).sigmoid()


def maps(x: Tensor, y: Tensor) -> Tensor:
    return torch_map(lambda row, whole: torch.nn.functional.silu(row * whole).sum(0), x, y)


def scans(x: Tensor, y: Tensor) -> Any:
    return scan(lambda carry, row: (carry.sigmoid(), carry * row), y[0], x, dim=0)


def loops(x: Tensor, y: Tensor) -> Any:
    def step(index: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        return index + 1, torch.nn.functional.silu(value)

    return while_loop(lambda index, value: index < 3, step, (torch.tensor(0), x))


def is_silu(node: Node) -> bool:
    return node.target is aten.silu.default


def always(node: Node) -> bool:
    return True


def never(node: Node) -> bool:
    return False


def is_region(node: Node) -> bool:
    return isinstance(node.target, torch._ops.HigherOrderOperator)


@pytest.mark.parametrize("function", [small, in_place, several])
@pytest.mark.parametrize("should_decompose", [is_silu, always, never])
@pytest.mark.parametrize("values", [inputs, fakes])
def test_a_partly_decomposed_graph_is_torchs(
    function: Callable[..., Any],
    should_decompose: Callable[[Node], bool],
    values: Callable[[], Any],
) -> None:
    captures = [
        select(
            captured(function),
            *values(),
            decomposition=TABLE,
            should_decompose=should_decompose,
            trace_joint_graph=False,
        )
        for select in (selective_decompose, proxy_tensor.selective_decompose)
    ]
    assert_alike(*captures)


def sizes(x: Tensor, y: Tensor) -> Any:
    count = x.shape[0]
    z = torch.nn.functional.silu(x[: count - 1]) * count
    return z.reshape(-1, 2).sigmoid(), x.new_zeros(count * 2 + y.shape[1]), count * y.shape[1]


def symbolic(function: Callable[..., Any]) -> tuple[GraphModule, list[Any]]:
    """Return a symbolic graph and its own example inputs."""
    graph_module = hopyard.make_fx(function, tracing_mode="symbolic")(*inputs())
    placeholders = graph_module.graph.find_nodes(op="placeholder")
    return graph_module, [node.meta["val"] for node in placeholders]


@pytest.mark.parametrize("function", [sizes, small, in_place, several])
@pytest.mark.parametrize("should_decompose", [is_silu, always, never])
def test_a_partly_decomposed_symbolic_graph_is_torchs(
    function: Callable[..., Any], should_decompose: Callable[[Node], bool]
) -> None:
    captures = []
    for select in (selective_decompose, proxy_tensor.selective_decompose):
        with torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
            graph_module, values = symbolic(function)
            captures.append(
                select(
                    graph_module,
                    *values,
                    decomposition=TABLE,
                    should_decompose=should_decompose,
                    trace_joint_graph=False,
                )
            )
    assert_alike(*captures)
    # The number of pieces is part of the graph, and assumes this size.
    size = 4 if function is several else 6
    other = torch.randn(size, size), torch.randn(size, size)
    torch.testing.assert_close(captures[0](*other), function(*other))


def reads(x: Tensor, y: Tensor) -> Any:
    count = x.abs().sum().long().item()
    torch._check(count >= 2)
    return torch.nn.functional.silu(x) * count, torch.zeros(count).sigmoid()


# torch's interpreter cannot return numbers, nor enter bodies, nor repeat what values promise.
@pytest.mark.parametrize("function", [sizes, reads, lambda x, y: branches(x, y) + x.shape[0]])
@pytest.mark.parametrize("table", [None, TABLE], ids=["none", "own"])
def test_a_symbolic_graph_stays_one_when_it_is_decomposed(
    function: Callable[..., Any], table: Any
) -> None:
    graph_module, values = symbolic(function)
    made, _ = decomposed(DecompositionInterpreter, graph_module, values, table)
    bodies = [module for module in made.modules() if isinstance(module, GraphModule)]
    called = {target for body in bodies for target in targets(body)}
    assert (aten.silu.default in called) is (table is None)
    for size in (4, 6):
        other = torch.randn(size, size), torch.randn(size, size)
        torch.testing.assert_close(made(*other), function(*other))


def nested(x: Tensor, y: Tensor) -> Any:
    def inner(a: Tensor, b: Tensor) -> Any:
        return (torch.nn.functional.silu(a) + b,)

    def outer(a: Tensor, b: Tensor) -> Any:
        (chosen,) = torch.ops.higher_order.cond(a.sum() > 1, inner, lambda a, b: (a.cos(),), (a, b))
        return (torch.nn.functional.silu(chosen) * 2,)

    return torch.ops.higher_order.cond(x.sum() > 0, outer, lambda a, b: (b.sin(),), (x, y))


@pytest.mark.parametrize("should_decompose", [is_silu, always, is_region, never])
def test_bodies_of_bodies_are_reached(should_decompose: Callable[[Node], bool]) -> None:
    graph_module = captured(nested)
    made = selective_decompose(
        graph_module,
        *inputs(),
        decomposition=TABLE,
        should_decompose=should_decompose,
        trace_joint_graph=False,
    )
    bodies = [module for module in made.modules() if isinstance(module, GraphModule)]
    remaining = [targets(body).count(aten.silu.default) for body in bodies]
    assert len(bodies) == 5
    assert sum(remaining) == (2 if should_decompose is never else 0)
    for sign in (1, -1):
        x, y = (value.abs() * sign for value in inputs())
        torch.testing.assert_close(made(x, y), nested(x, y))


def test_only_chosen_nodes_are_decomposed() -> None:
    graph_module = captured(lambda x, y: torch.nn.functional.silu(x).sigmoid() + y)
    chosen = selective_decompose(
        graph_module,
        *inputs(),
        decomposition=TABLE,
        should_decompose=is_silu,
        trace_joint_graph=False,
    )
    # The sigmoid that silu decomposes into is decomposed further; the program's own is not.
    assert targets(chosen).count(aten.sigmoid.default) == 1
    assert aten.exp.default in targets(chosen)
    assert aten.silu.default not in targets(chosen)
    torch.testing.assert_close(chosen(*inputs()), graph_module(*inputs()))


@pytest.mark.parametrize("function", [branches, maps, scans, loops])
def test_nodes_in_bodies_are_chosen_one_by_one(function: Callable[..., Any]) -> None:
    graph_module = captured(function)
    before = describe_graph(graph_module)

    def chosen(should_decompose: Callable[[Node], bool]) -> tuple[GraphModule, list[Any]]:
        made = selective_decompose(
            graph_module,
            *inputs(),
            decomposition=TABLE,
            should_decompose=should_decompose,
            trace_joint_graph=False,
        )
        torch.testing.assert_close(made(*inputs()), function(*inputs()))
        bodies = [module for module in made.modules() if isinstance(module, GraphModule)]
        return made, [target for body in bodies[1:] for target in targets(body)]

    same, inside = chosen(never)
    assert_same_graph(same, graph_module)
    assert {aten.silu.default, aten.sigmoid.default} & set(inside)
    _, inside = chosen(always)
    assert not {aten.silu.default, aten.sigmoid.default} & set(inside)
    _, inside = chosen(is_silu)
    assert aten.silu.default not in inside
    outer, inside = chosen(is_region)
    assert not {aten.silu.default, aten.sigmoid.default} & set(inside)
    assert targets(outer).count(aten.sigmoid.default) == (function is branches)
    assert describe_graph(graph_module) == before


def test_bodies_of_our_own_operators_are_chosen_as_well() -> None:
    region = bind(Hop("retrace_tests__region", eager=lambda body, *operands: body(*operands)))
    graph_module = captured(lambda x, y: region(lambda a: torch.nn.functional.silu(a).sin(), x) + y)
    made = selective_decompose(
        graph_module,
        *inputs(),
        decomposition=TABLE,
        should_decompose=is_silu,
        trace_joint_graph=False,
    )
    (call,) = made.graph.find_nodes(op="call_function", target=region)
    body = getattr(made, call.args[0].target)
    assert aten.exp.default in targets(body)
    torch.testing.assert_close(made(*inputs()), graph_module(*inputs()))


def joint() -> tuple[GraphModule, Any]:
    x, y = (value.requires_grad_() for value in inputs())
    graph_module = aot_export_joint_simple(
        lambda x, y: (torch.nn.functional.silu(x @ y),), (x, y), trace_joint=True
    )
    tangent = torch.ones(4, 4)
    return graph_module, ([x.detach(), y.detach()], [tangent])


def decomposed_joint(
    graph_module: GraphModule, values: Any, should_decompose: Callable[..., bool]
) -> GraphModule:
    """Decompose a joint graph with both, and return ours, which has the names of the inputs."""
    captures = [
        select(
            graph_module,
            *values,
            decomposition=TABLE,
            should_decompose=should_decompose,
            trace_joint_graph=True,
        )
        for select in (selective_decompose, proxy_tensor.selective_decompose)
    ]
    assert_alike(*captures)
    names = [node.name for node in captures[0].graph.find_nodes(op="placeholder")]
    assert names == ["primals_1", "primals_2", "tangents_1"]
    return captures[0]


def test_a_joint_graph_keeps_the_names_of_its_inputs() -> None:
    graph_module, values = joint()
    decomposed = decomposed_joint(graph_module, values, is_silu)
    assert aten.silu.default not in targets(decomposed)
    torch.testing.assert_close(decomposed(*values), graph_module(*values))


def test_a_joint_graph_with_symbols_keeps_the_names_of_its_inputs() -> None:
    def forward(x: Tensor, y: Tensor) -> tuple[Tensor]:
        return (torch.nn.functional.silu(x @ y) * x.shape[0],)

    with torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
        mode = FakeTensorMode(shape_env=ShapeEnv())
        x, y = (mode.from_tensor(value.requires_grad_()) for value in inputs())
        with mode:
            graph_module = aot_export_joint_simple(forward, (x, y), trace_joint=True)
            values = [x.detach(), y.detach()], [torch.ones(x.shape[0], y.shape[1])]
        decomposed = decomposed_joint(graph_module, values, always)
    other = [torch.randn(6, 6), torch.randn(6, 6)], [torch.ones(6, 6)]
    torch.testing.assert_close(decomposed(*other), graph_module(*other))


# Tables for a while


def test_a_table_for_a_while_is_torchs(mode: str) -> None:
    def program(x: Tensor, y: Tensor, entered: Callable[..., Any]) -> Tensor:
        first = x.sigmoid()
        with entered(TABLE):
            second = torch.nn.functional.silu(x)
            with entered({}):
                third = torch.nn.functional.silu(y)
            with entered(None), entered({aten.silu.default: lambda x: x.cos()}):
                fourth = torch.nn.functional.silu(y).sigmoid()
            fifth = y.sigmoid()
        return first + second + third + fourth + fifth + y.sigmoid()

    expected = torch_make_fx(lambda x, y: program(x, y, proxy_tensor.decompose), tracing_mode=mode)(
        *inputs()
    )
    actual = hopyard.make_fx(lambda x, y: program(x, y, decompose), tracing_mode=mode)(*inputs())
    assert_alike(actual, expected)


def test_a_table_for_a_while_works_in_torchs_captures(mode: str) -> None:
    def program(x: Tensor) -> Tensor:
        with decompose(TABLE):
            return x.sigmoid()

    graph_module = torch_make_fx(program, tracing_mode=mode)(inputs()[0])
    assert aten.exp.default in targets(graph_module)


@pytest.mark.parametrize("pre_dispatch", [False, True])
def test_the_table_is_restored_after_an_error(pre_dispatch: bool, mode: str) -> None:
    def program(x: Tensor) -> Tensor:
        with pytest.raises(ValueError, match="inside"), decompose(TABLE):
            raise ValueError("inside")
        return x.sigmoid()

    make = hopyard.make_fx(program, tracing_mode=mode, pre_dispatch=pre_dispatch)
    assert targets(make(inputs()[0])) == [aten.sigmoid.default]


def test_a_table_needs_a_capture() -> None:
    with pytest.raises(UsageError, match="nothing is being captured"), decompose(TABLE):
        pass


# Composite operators


@pytest.mark.parametrize("pre_dispatch", [False, True])
def test_composite_operators_decompose_below_autograd_only(pre_dispatch: bool, mode: str) -> None:
    def program(x: Tensor, y: Tensor) -> Tensor:
        with torch.inference_mode():
            # Without autograd nothing has decomposed them when the tracer sees them.
            return aten.linear.default(x, y).reshape(-1)

    captures = [
        make(program, tracing_mode=mode, pre_dispatch=pre_dispatch)(*inputs())
        for make in (hopyard.make_fx, torch_make_fx)
    ]
    assert_alike(*captures)
    assert (aten.linear.default in targets(captures[0])) is pre_dispatch


# Appending


def test_a_program_is_added_to_a_graph() -> None:
    graph = Graph()
    appender = GraphAppender(graph, decomposition_table=TABLE)
    x, y = inputs()
    weight = nn.Parameter(torch.ones(4, 4))
    closed_over = torch.full((4,), 3.0)
    with appender.recording():
        appender.placeholder("x", x)
        appender.read("layer.weight", weight)
        node = graph.placeholder("z")
        appender.track(y, node)
        appender.output((x.sigmoid() @ weight + closed_over, [y * 2]))
    made = GraphModule(appender.root, graph)
    assert [each.op for each in graph.nodes][:3] == ["placeholder", "get_attr", "placeholder"]
    assert node.meta["tensor_meta"].shape == (4, 4)
    assert aten.exp.default in targets(made)
    assert made.get_parameter("layer.weight") is weight
    other = torch.randn(4, 4)
    expected = other.sigmoid() @ weight + closed_over, [other * 2]
    torch.testing.assert_close(made(other, other), expected)
    assert not [name for name in x.__dict__ if "hopyard" in name]


def test_nodes_can_be_added_in_the_middle() -> None:
    graph_module = captured(lambda x, y: x.sin() + y)
    graph = graph_module.graph
    (sine,) = graph.find_nodes(op="call_function", target=aten.sin.default)
    with graph.inserting_after(sine):
        appender = GraphAppender(graph, graph_module)
        value = torch.zeros(4, 4)
        with appender.recording():
            appender.track(value, sine)
            doubled = value.cos()
            node = graph.find_nodes(op="call_function", target=aten.cos.default)[0]
    assert doubled.shape == (4, 4)
    sine.replace_all_uses_with(node, delete_user_cb=lambda user: user is not node)
    graph_module.recompile()
    graph.lint()
    x, y = inputs()
    torch.testing.assert_close(graph_module(x, y), x.sin().cos() + y)


def test_sizes_are_added_when_they_are_computed() -> None:
    graph = Graph()
    fake_mode = FakeTensorMode(shape_env=ShapeEnv())
    appender = GraphAppender(graph, fake_mode=fake_mode)
    x = fake_mode.from_tensor(torch.ones(3, 4))
    with appender.recording():
        appender.placeholder("x", x)
        assert x.shape[0] * 2 is not None
        assert [node.name for node in graph.nodes] == ["x", "sym_size_int", "mul"]


def test_regions_become_attributes_of_the_given_module() -> None:
    graph, root = Graph(), nn.Module()
    appender = GraphAppender(graph, root)
    x, y = inputs()
    with appender.recording():
        appender.placeholder("x", x)
        appender.placeholder("y", y)
        appender.output(branches(x, y))
    assert {"true_graph_0", "false_graph_0"} <= dict(root.named_children()).keys()
    torch.testing.assert_close(GraphModule(root, graph)(x, y), branches(x, y))


def test_what_no_graph_can_hold_is_refused() -> None:
    appender = GraphAppender(Graph())
    with pytest.raises(UnsupportedError, match="object"), appender.recording():
        appender.output(object())
