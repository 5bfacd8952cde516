"""What passes may ask of the base besides callbacks, and graphs that are out of the ordinary."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx

from hopyard import Program
from hopyard.errors import UsageError
from hopyard.tracing import make_fx
from hopyard.verify import verify, walk_graphs
from hopyard_export_pass import ExportPass, ExportTracer, NodeMetadata, ProxyValue, ReplayError

aten = torch.ops.aten
Capture = Callable[..., Program]

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


def sine(**options: Any) -> GraphModule:
    options = {"tracing_mode": "fake", **options}
    return make_fx(lambda x: torch.sin(x) + 1, **options)(torch.ones(2, 3))


def called(graph_module: GraphModule) -> list[Any]:
    return [
        node.target
        for _, body in walk_graphs(graph_module)
        for node in body.graph.nodes
        if node.op == "call_function"
    ]


class CosForSin(ExportPass):
    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        op = aten.cos.default if op is aten.sin.default else op
        return super().call_operator(op, args, kwargs, meta)


class Within(ExportPass):
    """Runs a function within the callback for the sine."""

    def __init__(self, function: Callable[[ExportPass, ProxyValue], Any]) -> None:
        super().__init__()
        self.function = function
        self.result: Any = None

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        value = super().call_operator(op, args, kwargs, meta)
        if op is aten.sin.default:
            self.result = self.function(self, value)
        return value


class TestTracer:
    def test_it_belongs_to_the_replay(self) -> None:
        graph_module = sine()
        run = Within(lambda self, value: (self.tracer, value.node.graph, self.fake_tensor_mode))
        made = run(graph_module).graph_module
        tracer, graph, fake_mode = run.result
        assert isinstance(tracer, ExportTracer)
        assert tracer.graph is graph is made.graph
        assert tracer.callback is run
        assert tracer.fake_tensor_mode is fake_mode
        assert fake_mode is graph_module.graph.find_nodes(op="placeholder")[0].meta["val"].fake_mode
        assert run.fake_tensor_mode is None
        assert run.node_debug_str is None

    def test_it_does_not_trace(self) -> None:
        with pytest.raises(UsageError):
            ExportPass().tracer.trace(torch.nn.Module())

    def test_a_fake_tensor_is_no_argument_unless_its_value_is_known(self) -> None:
        graph_module = sine()
        constant = torch.tensor(2.0)

        def give(self: ExportPass, value: ProxyValue) -> Any:
            with pytest.raises(UsageError):
                self.tracer.create_arg(value.data)
            known = aten.lift_fresh_copy.default(constant)
            assert known.constant is not None
            return self.tracer.create_arg(known)

        run = Within(give)
        run(graph_module)
        assert run.result.op == "get_attr"
        assert run.result.meta["val"].shape == ()

    def test_attributes_are_made_once(self) -> None:
        constant, module = torch.ones(3), nn.Linear(1, 1)

        def give(self: ExportPass, value: ProxyValue) -> Any:
            nodes = [self.tracer.create_arg(each) for each in (constant, module) * 2]
            return nodes, dict(self.tracer.tensor_attrs), dict(self.tracer.submodules)

        run = Within(give)
        run(sine())
        (first, second, *others), tensors, modules = run.result
        assert others == [first, second]
        assert tensors == {"_tensor_constant0": constant}
        assert modules == {module: "submodule_0"}

    def test_the_way_of_generating_code_is_kept(self) -> None:
        exported = torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)).module()
        codegen = exported.graph._codegen
        for node in exported.graph.find_nodes(op="call_module"):
            exported.graph.erase_node(node)
        assert ExportPass()(exported).graph_module.graph._codegen is codegen

    def test_proxies_add_nodes(self) -> None:
        def add(self: ExportPass, value: ProxyValue) -> Any:
            proxy = self.tracer.create_proxy("call_function", aten.neg.default, (value.proxy,), {})
            self.tracer.set_metadata(proxy.node, aten.neg.default(value.data))
            return proxy.node, value.proxy.node is value.node

        run = Within(add)
        node, same = (run(sine()), run.result)[1]
        assert same
        assert node.target is aten.neg.default
        assert node.meta["val"].shape == (2, 3)

    def test_a_node_of_no_replay_has_no_proxy(self) -> None:
        node = sine().graph.find_nodes(op="placeholder")[0]
        with pytest.raises(UsageError):
            _ = ProxyValue(node.meta["val"], node).proxy

    def test_the_node_as_text(self) -> None:
        run = Within(lambda self, value: self.node_debug_str)
        run(sine())
        assert "aten.sin.default" in run.result

    def test_dummy_metadata_names_the_line_of_the_pass(self) -> None:
        dummy = ExportPass._create_dummy_node_metadata()
        assert "test_dummy_metadata" in dummy["stack_trace"]


class TestInputs:
    def test_of_the_graph_s_metadata(self) -> None:
        graph_module = sine()
        graph_module.meta["args"] = [torch.ones(5, 3)]
        made = ExportPass()(graph_module).graph_module
        assert {node.meta["val"].shape for node in made.graph.nodes if "val" in node.meta} == {
            (5, 3)
        }

    def test_of_tensor_metadata(self) -> None:
        graph_module = sine()
        placeholder = graph_module.graph.find_nodes(op="placeholder")[0]
        del placeholder.meta["val"]
        (value,) = ExportPass().inputs(graph_module)
        assert value.shape == (2, 3)
        verify(ExportPass()(graph_module).graph_module, propagate=True)

    def test_of_a_known_constant(self) -> None:
        graph_module = make_fx(lambda x: x + 1, tracing_mode="fake")(torch.ones(()))
        placeholder = graph_module.graph.find_nodes(op="placeholder")[0]
        constant = torch.tensor(2.0)
        placeholder.meta["val"].constant = constant
        assert ExportPass().inputs(graph_module) == [constant]

    def test_of_an_unused_input(self) -> None:
        graph_module = make_fx(lambda x, y: x + 1, tracing_mode="fake")(
            torch.ones(1), torch.ones(1)
        )
        graph_module.graph.find_nodes(op="placeholder")[1].meta.clear()
        assert ExportPass().inputs(graph_module)[1] is None
        assert len(ExportPass()(graph_module).graph_module.graph.find_nodes(op="placeholder")) == 2


class TestValues:
    def test_parameters_and_new_constants_have_static_shapes(self) -> None:
        class Add(ExportPass):
            constants = (torch.ones(3), nn.Parameter(torch.ones(3), requires_grad=False))

            def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
                value = super().call_operator(op, args, kwargs, meta)
                for constant in self.constants:
                    value = super().call_operator(aten.mul.Tensor, (value, constant), {}, meta)
                return value

        made = Add()(sine(tracing_mode="symbolic")).graph_module
        reads = made.graph.find_nodes(op="get_attr")
        assert {str(node.target) for node in reads} == {"_tensor_constant0", "_param_constant0"}
        assert all(type(node.meta["val"].shape[0]) is int for node in reads)

    @pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions:UserWarning")
    def test_quantized_tensors(self) -> None:
        quantized = torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.qint8)
        graph = torch.fx.Graph()
        given = graph.placeholder("x")
        graph.output((graph.call_function(aten.dequantize.self, (given,)), given))
        graph_module = GraphModule(nn.Module(), graph)
        graph_module.meta["args"] = [quantized]
        made = ExportPass()(graph_module).graph_module
        values = [node.meta["val"] for node in made.graph.nodes if node.op != "output"]
        assert [(each.dtype, each.shape) for each in values] == [(torch.float32, (2, 3))] * 2
        torch.testing.assert_close(made(quantized)[0], torch.ones(2, 3))

    def test_handles_of_numbers(self) -> None:
        node = sine().graph.find_nodes(op="placeholder")[0]
        number = ProxyValue(3, node)
        assert (int(number), float(number), [0, 1, 2, 3][number], bool(number)) == (3, 3.0, 3, True)
        graph_module = make_fx(lambda x: x * x.shape[0], tracing_mode="symbolic")(torch.ones(5, 3))
        size = graph_module.graph.find_nodes(op="placeholder")[0].meta["val"].shape[0]
        for convert in (int, float, operator.index):
            with pytest.raises(UsageError):
                convert(ProxyValue(size, node))

    def test_the_fake_mode_is_restored_after_an_error(self) -> None:
        graph_module = sine()
        mode = graph_module.graph.find_nodes(op="placeholder")[0].meta["val"].fake_mode
        mode.allow_non_fake_inputs = False
        with pytest.raises(ReplayError):
            Within(lambda self, value: 1 / 0)(graph_module)
        assert mode.allow_non_fake_inputs is False
        assert ExportPass().fake_tensor_mode is None

    def test_metadata_that_is_read_whole_is_a_copy(self) -> None:
        class Change(ExportPass):
            def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
                meta.data["tag"] = 1
                return super().call_operator(op, args, kwargs, meta)

        graph_module = sine()
        result = Change()(graph_module)
        assert result.modified
        assert [node.meta.get("tag") for node in graph_module.graph.nodes] == [None] * 4
        assert [node.meta.get("tag") for node in result.graph_module.graph.nodes][1:3] == [1, 1]

    def test_metadata_may_be_made_of_anything(self) -> None:
        meta = NodeMetadata({"a": 1})
        assert ("a" in meta, "b" in meta, meta["a"]) == (True, False, 1)
        assert meta.copy().data == {"a": 1}

    def test_metadata_may_be_replaced_as_a_whole(self) -> None:
        class Anew(ExportPass):
            def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
                meta.data = {"tag": 1}
                return super().call_operator(op, args, kwargs, meta)

        graph_module = sine()
        made = Anew()(graph_module).graph_module
        calls = made.graph.find_nodes(op="call_function", target=aten.sin.default)
        assert [node.meta["tag"] for node in calls] == [1]
        assert not any("tag" in node.meta for node in graph_module.graph.nodes)


class TestChecks:
    def test_before_and_after(self) -> None:
        order: list[str] = []

        class Checked(ExportPass):
            def requires(self, graph_module: GraphModule) -> None:
                order.append("requires")

            def call(self, graph_module: GraphModule) -> Any:
                order.append("call")
                return super().call(graph_module)

            def ensures(self, graph_module: GraphModule) -> None:
                order.append("ensures")

        Checked()(sine())
        assert order == ["requires", "call", "ensures"]

    def test_callbacks_need_a_replay(self) -> None:
        with pytest.raises(ReplayError):
            ExportPass().call_operator(aten.sin.default, (1,), {}, NodeMetadata({}))


class WhileLoop(nn.Module):
    def forward(self, x: Tensor) -> Any:
        def body(count: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return count + 1, torch.sin(y)

        return torch._higher_order_ops.while_loop(
            lambda count, y: torch.sin(count) < 3, body, (torch.zeros(()), x)
        )


class Scan(nn.Module):
    def forward(self, x: Tensor) -> Any:
        from torch._higher_order_ops.scan import scan

        return scan(lambda carry, row: (carry + torch.sin(row), carry * 2), x[0], x, dim=0)


class Grad(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(not torch.is_grad_enabled()):
            y = torch.sin(x) * 2
        return y + 1


class Autocast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = torch.sin(x) @ x
        return y + 1


@pytest.mark.parametrize("model", [WhileLoop, Scan, Grad, Autocast])
def test_bodies_of_every_operator_are_replayed(model: type[nn.Module]) -> None:
    x = torch.randn(3, 3)
    exported = torch.export.export(model(), (x,)).graph_module
    assert aten.sin.default in called(exported)
    assert ExportPass()(exported).modified is False
    made = CosForSin()(exported)
    assert made.modified is True
    assert aten.sin.default not in called(made.graph_module)
    verify(made.graph_module)
    again = ExportPass()(made.graph_module)
    assert again.modified is False
    dtypes = [
        node.meta["val"].dtype
        for graph_module in (exported, again.graph_module)
        for _, body in walk_graphs(graph_module)
        for node in body.graph.nodes
        if node.op == "call_function" and isinstance(node.meta.get("val"), Tensor)
    ]
    assert dtypes[: len(dtypes) // 2] == dtypes[len(dtypes) // 2 :]


def test_loops_have_callbacks() -> None:
    seen: list[str] = []

    class Watch(ExportPass):
        def call_while_loop(self, *args: Any) -> Any:
            seen.append("while_loop")
            return super().call_while_loop(*args)

        def call_scan(self, *args: Any) -> Any:
            seen.append("scan")
            return super().call_scan(*args)

    for model in (WhileLoop(), Scan()):
        Watch()(torch.export.export(model, (torch.randn(3, 3),)).graph_module)
    assert seen == ["while_loop", "scan"]


def test_delegates_have_a_callback_and_stay() -> None:
    from hopyard.hops import bind
    from hopyard_hookspecs import Hop

    delegate = bind(Hop("export_pass_tests__call_delegate"))
    graph_module = make_fx(lambda x: delegate(torch.sin, x) + 1, tracing_mode="fake")(torch.ones(2))
    seen: list[Any] = []

    class Watch(CosForSin):
        def call_delegate(self, lowered: Any, args: Any, kwargs: Any, meta: Any) -> Any:
            seen.append((type(lowered).__name__, len(args)))
            return super().call_delegate(lowered, args, kwargs, meta)

    result = Watch()(graph_module)
    assert len(seen) == 1
    assert seen[0][1] == 1
    assert result.modified is False
    assert aten.sin.default in called(result.graph_module)


def test_foreign_graphs_of_every_mode() -> None:
    for mode in ("real", "fake", "symbolic"):
        graph_module = torch_make_fx(lambda x: torch.sin(x).sum(0), tracing_mode=mode)(
            torch.ones(2, 3)
        )
        made = CosForSin()(graph_module).graph_module
        verify(made, propagate=True)
        torch.testing.assert_close(made(torch.ones(2, 3)), torch.cos(torch.ones(2, 3)).sum(0))
