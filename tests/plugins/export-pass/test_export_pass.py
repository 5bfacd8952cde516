"""The base: replaying, rewriting, descending into regions, and failing well."""

from __future__ import annotations

import copy
import operator
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from hopyard import Program, make_fx
from hopyard.errors import PassError, UsageError
from hopyard.hops import bound
from hopyard.verify import verify, walk_graphs
from hopyard_export_pass import ExportPass, NodeMetadata, ProxyValue, ReplayError
from hopyard_hookspecs import PassResult

aten = torch.ops.aten
SIN = aten.sin.default
Capture = Callable[..., Program]
Case = tuple[Callable[..., Any], tuple[Any, ...]]


class Identity(ExportPass):
    """Overrides nothing."""


@dataclass(frozen=True)
class Replace(ExportPass):
    """Emits one operator instead of another."""

    old: Any = aten.sin.default
    new: Any = aten.cos.default

    def call_operator(
        self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: NodeMetadata
    ) -> Any:
        return super().call_operator(self.new if op is self.old else op, args, kwargs, meta)


def described(graph_module: GraphModule) -> list[tuple[Any, ...]]:
    """Everything about a graph and its regions that a pass must leave alone."""
    return [
        (
            path,
            node.op,
            node.name,
            node.target,
            str(node.args),
            str(node.kwargs),
            id(node.meta["val"]),
        )
        if "val" in node.meta
        else (path, node.op, node.name, node.target, str(node.args), str(node.kwargs))
        for path, body in walk_graphs(graph_module)
        for node in body.graph.nodes
    ]


def applied(transform: ExportPass, program: Program) -> Program:
    """The program after a pass, verified; the given one is as it was."""
    before = described(program.graph_module)
    result = transform(program.graph_module)
    assert described(program.graph_module) == before
    assert result.graph_module is not program.graph_module
    verify(result.graph_module, propagate=True)
    return program.with_graph(result.graph_module)


def called(graph_module: GraphModule) -> list[Any]:
    return [
        node.target
        for _, body in walk_graphs(graph_module)
        for node in body.graph.nodes
        if node.op == "call_function"
    ]


def assert_equal(left: Any, right: Any) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=0)


class TestIdentity:
    def test_it_changes_nothing_and_says_so(self, capture: Capture, case: Case) -> None:
        target, inputs = case
        program = capture(target, *inputs)
        result = Identity()(program.graph_module)
        assert result.modified is False
        # Unchanged metadata is handed on, not made again.
        assert described(result.graph_module) == described(program.graph_module)

    def test_the_program_computes_what_eager_does(self, capture: Capture, case: Case) -> None:
        target, inputs = case
        program = applied(Identity(), capture(copy.deepcopy(target), *inputs))
        for _ in range(2):
            assert_equal(program(*inputs), target(*inputs))

    def test_metadata_is_copied(self, capture: Capture) -> None:
        program = capture(lambda x: torch.sin(x), torch.ones(2))
        program.graph_module.meta["origin"] = "here"
        sin = next(node for node in program.graph.nodes if node.target is aten.sin.default)
        sin.meta["tag"] = marker = object()
        replayed = Identity()(program.graph_module).graph_module
        copy = next(node for node in replayed.graph.nodes if node.target is aten.sin.default)
        assert copy.meta["tag"] is marker
        assert copy.meta["stack_trace"] == sin.meta["stack_trace"]
        assert copy.meta is not sin.meta
        assert replayed.meta == {"origin": "here"}

    def test_a_graph_with_constants_of_its_own_shares_them(self) -> None:
        constant = torch.tensor([1.0, 2.0])
        graph_module = make_fx(lambda x: x + constant + constant)(torch.ones(2))
        seen: list[ProxyValue] = []

        class Watch(ExportPass):
            def on_attr(self, attr: ProxyValue) -> None:
                seen.append(attr)

        result = Watch()(graph_module)
        assert result.modified is False
        assert all(attr.data is constant and attr.node.op == "get_attr" for attr in seen)
        assert len(seen) == 2
        assert_equal(result.graph_module(torch.ones(2)), torch.tensor([3.0, 5.0]))

    def test_the_fake_mode_is_the_graph_s_and_as_it_was(self, capture: Capture) -> None:
        program = capture(torch.sin, torch.ones(2))
        mode = next(iter(program.graph.nodes)).meta["val"].fake_mode
        mode.allow_non_fake_inputs = False
        made = Replace()(program.graph_module).graph_module
        assert mode.allow_non_fake_inputs is False
        assert {node.meta["val"].fake_mode for node in made.graph.nodes if node.op != "output"} == {
            mode
        }

    def test_stale_metadata_is_computed_anew(self, capture: Capture) -> None:
        program = capture(lambda x: torch.sin(x) + 1, torch.ones(2))
        graph_module = program.with_graph(
            Identity()(program.graph_module).graph_module
        ).graph_module
        sin = next(node for node in graph_module.graph.nodes if node.target is aten.sin.default)
        sin.target, sin.args = aten.sum.dim_IntList, (sin.args[0], [0], True)
        result = Identity()(graph_module)
        assert result.modified is True
        verify(result.graph_module, propagate=True)
        add = next(node for node in result.graph_module.graph.nodes if node.name == "add")
        assert add.meta["val"].shape == (1,)
        assert tuple(add.meta["tensor_meta"].shape) == (1,)

    @pytest.mark.parametrize(
        "find",
        [
            lambda work, handle: handle.node,
            lambda work, handle: handle.proxy_or_node,
            lambda work, handle: handle.proxy.node,
            lambda work, handle: next(iter(handle.node.users), handle.node),
            lambda work, handle: work.tracer.graph.find_nodes(op="call_function", target=SIN)[0],
            lambda work, handle: next(node for node in work.tracer.graph.nodes if node.meta),
        ],
        ids=["node", "proxy_or_node", "proxy", "user", "tracer", "first"],
    )
    def test_a_node_that_a_pass_edits_behind_the_replay(
        self, capture: Capture, find: Callable[[ExportPass, ProxyValue], Any]
    ) -> None:
        class Behind(ExportPass):
            def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
                made = super().call_operator(op, args, kwargs, meta)
                if op is SIN:
                    find(self, made).meta["note"] = 1
                return made

        program = capture(lambda x: torch.sin(x) + 1, torch.ones(2))
        assert Behind()(program.graph_module).modified is True

    def test_metadata_that_a_pass_edits_through_a_handle(self, capture: Capture) -> None:
        class Behind(ExportPass):
            def output(self, results: Any, meta: NodeMetadata) -> Any:
                results[0].meta["note"] = 1
                return super().output(results, meta)

        program = capture(lambda x: torch.sin(x) + 1, torch.ones(2))
        assert Behind()(program.graph_module).modified is True


class TestRewriting:
    def test_a_rewrite_reaches_the_top_and_every_region(self, capture: Capture) -> None:
        def function(x: Tensor, sine: Callable[[Tensor], Tensor] = torch.sin) -> Tensor:
            scaled = bound("export_pass_tests__scaled")
            region = bound("export_pass_tests__region")
            inner = region(lambda t: region(lambda u: sine(u) + t, sine(t)), sine(x))
            return scaled(lambda t: sine(t) + inner, x, factor=2.0)

        x = torch.randn(3)
        program = capture(function, x)
        changed = applied(Replace(), program)
        assert aten.sin.default in called(program.graph_module)
        assert aten.sin.default not in called(changed.graph_module)
        assert_equal(changed(x), function(x, torch.cos))

    def test_modified_is_about_regions_too(self, capture: Capture) -> None:
        region = bound("export_pass_tests__region")
        program = capture(lambda x: region(torch.sin, x) + 1, torch.ones(2))
        assert Replace()(program.graph_module).modified is True
        assert Replace(old=aten.tan.default)(program.graph_module).modified is False

    def test_names_of_other_nodes_stay(self, capture: Capture) -> None:
        def function(x: Tensor) -> Tensor:
            return torch.cos(torch.cos(torch.sin(x))) + torch.sum(x)

        program = capture(function, torch.ones(2))
        changed = applied(Replace(new=aten.sum.default), program)
        before = {node.name: node.target for node in program.graph.nodes}
        after = {node.name: node.target for node in changed.graph.nodes}
        assert before.pop("sin") is aten.sin.default
        assert before.items() <= after.items()
        assert len(after) == len(before) + 1

    def test_one_node_may_become_several(self, capture: Capture) -> None:
        class Square(ExportPass):
            def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
                if op is not aten.square.default and op is not aten.pow.Tensor_Scalar:
                    return super().call_operator(op, args, kwargs, meta)
                one = super().call_operator(aten.mul.Tensor, (args[0], args[0]), {}, meta)
                return super().call_operator(aten.mul.Tensor, (one, 1.0), {}, meta)

        x = torch.randn(3)
        program = capture(lambda x: torch.pow(x, 2) * 3, x)
        changed = applied(Square(), program)
        assert_equal(changed(x), x * x * 3)
        lines = {node.meta["stack_trace"] for node in changed.graph.nodes if "mul" in node.name}
        assert len(lines) == 1

    def test_one_node_may_become_none(self, capture: Capture) -> None:
        class DropClone(ExportPass):
            def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
                if op is aten.clone.default:
                    return args[0]
                return super().call_operator(op, args, kwargs, meta)

        program = capture(lambda x: torch.clone(x), torch.ones(2))
        changed = applied(DropClone(), program)
        assert [node.op for node in changed.graph.nodes] == ["placeholder", "output"]
        assert_equal(changed(torch.ones(2)), torch.ones(2))

    def test_a_change_of_type_reaches_what_follows(self, capture: Capture) -> None:
        class ToDouble(ExportPass):
            def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
                value = super().call_operator(op, args, kwargs, meta)
                if op is not aten.sin.default or not value.is_tensor():
                    return value
                return super().call_operator(
                    aten._to_copy.default, (value,), {"dtype": torch.float64}, meta
                )

        region = bound("export_pass_tests__region")

        def function(x: Tensor) -> Tensor:
            return region(lambda t: torch.cos(t) + 1, torch.sin(x)) * 2

        x = torch.randn(3)
        changed = applied(ToDouble(), capture(function, x))
        values = [
            node.meta["val"].dtype
            for _, module in walk_graphs(changed.graph_module)
            for node in module.graph.nodes
            if node.target in (aten.cos.default, aten.mul.Tensor)
            or (node.op == "placeholder" and module is not changed.graph_module)
        ]
        assert values == [torch.float64] * 3
        assert_equal(changed(x), (torch.cos(torch.sin(x).double()) + 1) * 2)

    def test_several_results_may_be_replaced_by_a_tuple(self, capture: Capture) -> None:
        class MaxByHand(ExportPass):
            def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
                if op is not aten.max.dim:
                    return super().call_operator(op, args, kwargs, meta)
                largest = super().call_operator(aten.amax.default, (args[0], [args[1]]), {}, meta)
                where = super().call_operator(aten.argmax.default, args, {}, meta)
                return largest, where

        x = torch.randn(3, 4)
        changed = applied(MaxByHand(), capture(lambda x: x.max(dim=1), x))
        assert operator.getitem not in called(changed.graph_module)
        assert_equal(tuple(changed(x)), tuple(x.max(dim=1)))

    def test_a_new_constant_becomes_an_attribute(self) -> None:
        offset = torch.tensor([10.0, 20.0])
        added: list[ProxyValue] = []

        class Add(ExportPass):
            def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
                value = super().call_operator(op, args, kwargs, meta)
                return super().call_operator(aten.add.Tensor, (value, offset), {}, meta)

            def on_attr(self, attr: ProxyValue) -> None:
                added.append(attr)

        graph_module = make_fx(torch.sin, tracing_mode="fake")(torch.zeros(2))
        (sine,) = graph_module.graph.find_nodes(op="call_function", target=aten.sin.default)
        sine.meta["stack_trace"] = "the line of the sine"
        made = Add()(graph_module).graph_module
        verify(made, propagate=True)
        assert [attr.data is offset for attr in added] == [True]
        (read,) = made.graph.find_nodes(op="get_attr")
        assert read.meta["stack_trace"] == "the line of the sine"
        assert_equal(made(torch.zeros(2)), offset)

    def test_passes_in_a_manager_of_torch(self) -> None:
        from torch.fx.passes.infra.pass_manager import PassManager

        class CosForSin(ExportPass):
            def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
                op = aten.cos.default if op is aten.sin.default else op
                return super().call_operator(op, args, kwargs, meta)

        graph_module = make_fx(torch.sin, tracing_mode="fake")(torch.zeros(2))
        result = PassManager([CosForSin(), ExportPass()])(graph_module)
        assert result.modified
        assert_equal(result.graph_module(torch.zeros(2)), torch.ones(2))

    def test_getitem_output_and_placeholder_can_be_watched(self, capture: Capture) -> None:
        seen: list[tuple[Any, ...]] = []

        class Watch(ExportPass):
            def placeholder(self, name: str, arg: Any, meta: NodeMetadata) -> ProxyValue:
                seen.append(("placeholder", name, tuple(arg.shape)))
                return super().placeholder(name, arg, meta)

            def call_getitem(self, value: Any, key: Any, meta: NodeMetadata) -> Any:
                seen.append(("getitem", value.node.name, key))
                return super().call_getitem(value, key, meta)

            def output(self, results: Any, meta: NodeMetadata) -> Any:
                seen.append(("output", len(results), type(results[0])))
                return super().output(results, meta)

        program = capture(lambda x: torch.topk(x, 2), torch.ones(3))
        assert Watch()(program.graph_module).modified is False
        assert seen == [
            ("placeholder", "x", (3,)),
            ("getitem", "topk", 0),
            ("getitem", "topk", 1),
            ("output", 2, ProxyValue),
        ]

    def test_containers_among_arguments_are_to_be_copied(self, capture: Capture) -> None:
        class Changing(ExportPass):
            def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
                args[0].append(args[0][0])
                return super().call_operator(op, args, kwargs, meta)

        class Copying(ExportPass):
            def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
                tensors = list(args[0])
                tensors.append(tensors[0])
                return super().call_operator(op, (tensors,), kwargs, meta)

        x = torch.ones(2)
        captured = capture(lambda x: torch.cat([x, x]), x)
        with pytest.raises(ReplayError, match=r"'cat'.*does not support mutation"):
            applied(Changing(), captured)
        assert applied(Copying(), captured)(x).shape == (6,)

    def test_a_number_that_the_graph_reads_is_an_argument(self) -> None:
        graph_module = make_fx(lambda x: x * 1.0, tracing_mode="fake")(torch.ones(2))
        graph_module.scale = 3.0
        call = graph_module.graph.find_nodes(op="call_function", target=aten.mul.Tensor)[0]
        with graph_module.graph.inserting_before(call), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call.args = (call.args[0], graph_module.graph.get_attr("scale"))
        result = ExportPass()(graph_module)
        assert result.modified
        assert result.graph_module(torch.ones(2)).tolist() == [3.0, 3.0]
        assert "scale" not in result.graph_module.code

    def test_a_number_of_the_program_is_a_handle(self) -> None:
        seen: list[Any] = []

        class Watch(ExportPass):
            def call_sym(self, target: Any, args: Any, meta: NodeMetadata) -> Any:
                seen.append((target, [arg.data for arg in args]))
                return super().call_sym(target, args, meta)

        graph_module = make_fx(torch.sin, tracing_mode="fake")(torch.ones(2, 3))
        graph = graph_module.graph
        x, sin = list(graph.nodes)[:2]
        with graph.inserting_before(sin):
            rows = graph.call_function(aten.sym_size.int, (x, 0))
            columns = graph.call_function(aten.sym_size.int, (x, 1))
            area = graph.call_function(operator.mul, (rows, columns))
        with graph.inserting_after(sin):
            view = graph.call_function(aten.view.default, (sin, [area]))
        graph.output_node().args = (view,)
        result = Watch()(graph_module)
        assert seen == [(operator.mul, [2, 3])]
        assert result.modified is True
        assert next(n for n in result.graph_module.graph.nodes if n.name == "mul").meta["val"] == 6
        assert result.graph_module(torch.ones(2, 3)).shape == (6,)


class TestProgramsWithState:
    def test_parameters_stay_shared_and_tied(self, capture: Capture) -> None:
        class Tied(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
                self.second.weight = self.first.weight

            def forward(self, x: Tensor) -> Tensor:
                return self.second(torch.sin(self.first(x)))

        model, x = Tied(), torch.randn(2, 3)
        changed = applied(Replace(), capture(model, x))
        assert changed.state["first.weight"] is model.first.weight
        model.first.weight.mul_(2.0)
        assert_equal(changed(x), model.second(torch.cos(model.first(x))))

    def test_buffers_are_still_written(self, capture: Capture) -> None:
        class Mean(nn.Module):
            mean: Tensor

            def __init__(self) -> None:
                super().__init__()
                self.register_buffer("mean", torch.zeros(2))

            def forward(self, x: Tensor) -> Tensor:
                self.mean.add_(torch.sin(x))
                return self.mean * 2

        model, x = Mean(), torch.randn(2)
        changed = applied(Replace(), capture(model, x))
        assert_equal(changed(x), torch.cos(x) * 2)
        assert_equal(changed(x), torch.cos(x) * 4)
        assert_equal(model.mean, torch.cos(x) * 2)


class TestHigherOrderOperators:
    def test_call_hop_sees_each_call(self, capture: Capture) -> None:
        seen: list[tuple[str, tuple[type, ...], Mapping[str, Any]]] = []

        class Watch(ExportPass):
            def call_hop(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
                seen.append((op.name(), tuple(map(type, args)), kwargs))
                return super().call_hop(op, args, kwargs, meta)

        scaled = bound("export_pass_tests__scaled")
        x = torch.ones(2)
        program = capture(lambda x: scaled(torch.sin, x, factor=2.0), x)
        (name, kinds, config) = (Watch()(program.graph_module), seen[0])[1]
        assert name == "export_pass_tests__scaled"
        assert issubclass(kinds[0], GraphModule)
        assert kinds[1:] == (ProxyValue,)
        assert config == {"factor": 2.0}

    def test_a_region_can_be_inlined(self, capture: Capture) -> None:
        class Inline(ExportPass):
            def call_hop(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
                body, *operands = args
                values = dict(zip(body.graph.find_nodes(op="placeholder"), operands, strict=True))
                for node in body.graph.find_nodes(op="call_function", target=aten.sin.default):
                    values[node] = self.call_operator(
                        node.target, (values[node.args[0]],), {}, meta
                    )
                return values[body.graph.output_node().args[0]]

        region = bound("export_pass_tests__region")
        x = torch.randn(2)
        changed = applied(Inline(), capture(lambda x: region(torch.sin, x) + 1, x))
        assert called(changed.graph_module) == [aten.sin.default, aten.add.Tensor]
        assert not list(changed.graph_module.children())
        assert_equal(changed(x), torch.sin(x) + 1)

    def test_a_body_that_is_called_twice_is_replayed_once(self) -> None:
        body = make_fx(torch.sin, tracing_mode="fake")(torch.ones(2))
        region = bound("export_pass_tests__region")
        graph_module = make_fx(lambda x: region(body, region(body, x)), tracing_mode="fake")(
            torch.ones(2)
        )
        first, second = graph_module.graph.find_nodes(op="get_attr")
        delattr(graph_module, second.target)
        second.target = first.target
        replayed = Replace()(graph_module).graph_module
        verify(replayed, propagate=True)
        assert len(list(walk_graphs(replayed))) == 2
        assert_equal(replayed(torch.ones(2)), torch.cos(torch.cos(torch.ones(2))))
        assert Identity()(graph_module).modified is False

    def test_a_shared_body_splits_when_its_calls_come_to_differ(self) -> None:
        class SecondOnly(ExportPass):
            def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
                if op is not aten.abs.default:
                    return super().call_operator(op, args, kwargs, meta)
                return super().call_operator(
                    aten._to_copy.default, args, {"dtype": torch.float64}, meta
                )

        region = bound("export_pass_tests__region")
        graph_module = make_fx(
            lambda x: (region(torch.sin, x), region(torch.sin, torch.abs(x))), tracing_mode="fake"
        )(torch.ones(2))
        first, second = graph_module.graph.find_nodes(op="get_attr")
        delattr(graph_module, second.target)
        second.target = first.target
        replayed = SecondOnly()(graph_module).graph_module
        verify(replayed, propagate=True)
        single, double = replayed(torch.ones(2))
        assert (single.dtype, double.dtype) == (torch.float32, torch.float64)

    @pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
    def test_torch_s_cond_and_map(self) -> None:
        from torch._higher_order_ops.map import map as torch_map

        class Branches(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                y = torch.cond(x.sum() > 0, lambda t: torch.sin(t), lambda t: torch.sin(-t), (x,))
                return torch_map(lambda row, t: torch.sin(row) + t.sum(), y, x)

        seen: list[str] = []

        class Watch(Replace):
            def call_cond(self, *args: Any) -> Any:
                seen.append("cond")
                return super().call_cond(*args)

            def call_map(self, *args: Any) -> Any:
                seen.append("map")
                return super().call_map(*args)

        x = torch.randn(3, 2)
        exported = torch.export.export(Branches(), (x,)).run_decompositions({})
        graph_module = exported.graph_module
        assert Identity()(graph_module).modified is False
        changed = Watch()(graph_module)
        assert seen == ["cond", "map"]
        assert aten.sin.default not in called(changed.graph_module)
        verify(changed.graph_module, propagate=True)
        inner = torch.cos(x if x.sum() > 0 else -x)
        assert_equal(changed.graph_module(x)[0], torch.cos(inner) + x.sum())


class TestErrors:
    def test_a_callback_that_raises_is_named_with_node_and_line(self, capture: Capture) -> None:
        class Broken(ExportPass):
            def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
                raise KeyError("lost")

        def function(x: Tensor) -> Tensor:
            return torch.sin(x)

        program = capture(function, torch.ones(2))
        with pytest.raises(ReplayError) as caught:
            Broken()(program.graph_module)
        error = caught.value
        assert (error.stage, error.node) == ("Broken", "sin")
        assert error.location is not None
        assert error.location.file == __file__
        assert error.location.line == function.__code__.co_firstlineno + 1
        assert isinstance(error.__cause__, KeyError)
        assert isinstance(error, PassError)

    def test_the_innermost_node_is_named(self, capture: Capture) -> None:
        class Broken(ExportPass):
            def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
                if op is aten.cos.default:
                    raise ValueError("no")
                return super().call_operator(op, args, kwargs, meta)

        region = bound("export_pass_tests__region")
        program = capture(lambda x: region(lambda t: torch.cos(t), torch.sin(x)), torch.ones(2))
        with pytest.raises(ReplayError) as caught:
            Broken()(program.graph_module)
        assert caught.value.node == "cos"

    def test_an_operator_that_refuses_its_arguments(self, capture: Capture) -> None:
        program = capture(torch.sin, torch.ones(2))
        with pytest.raises(ReplayError) as caught:
            Replace(new=aten.mm.default)(program.graph_module)
        assert caught.value.node == "sin"

    def test_a_callback_that_returns_nothing(self, capture: Capture) -> None:
        class Forgetful(ExportPass):
            def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
                super().call_operator(op, args, kwargs, meta)

        program = capture(torch.sin, torch.ones(2))
        with pytest.raises(ReplayError) as caught:
            Forgetful()(program.graph_module)
        assert caught.value.node == "sin"
        assert "return" in caught.value.hint

    def test_data_instead_of_a_handle(self, capture: Capture) -> None:
        class Careless(ExportPass):
            def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
                return super().call_operator(op, (args[0].data,), kwargs, meta)

        program = capture(torch.sin, torch.ones(2))
        with pytest.raises(ReplayError) as caught:
            Careless()(program.graph_module)
        assert isinstance(caught.value.__cause__, UsageError)

    def test_a_missing_super_init(self, capture: Capture) -> None:
        class Uninitialized(ExportPass):
            def __init__(self) -> None:
                self.count = 0

        program = capture(torch.sin, torch.ones(2))
        with pytest.raises(ReplayError) as caught:
            Uninitialized()(program.graph_module)
        assert caught.value.stage == "Uninitialized"
        assert "super().__init__()" in caught.value.hint

    def test_a_pass_that_replays_nothing_needs_no_super_init(self, capture: Capture) -> None:
        class Tagging(ExportPass):
            def __init__(self) -> None:
                self.tag = "seen"

            def call(self, graph_module: GraphModule) -> PassResult:
                for node in graph_module.graph.nodes:
                    node.meta["custom"] = self.tag
                return PassResult(graph_module, modified=True)

        program = capture(torch.sin, torch.ones(2))
        made = Tagging()(program.graph_module).graph_module
        assert {node.meta["custom"] for node in made.graph.nodes} == {"seen"}

    @pytest.mark.parametrize("op", ["call_method", "call_module"])
    def test_nodes_that_are_no_operators(self, op: str) -> None:
        class Symbolic(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = nn.Linear(2, 2)

            def forward(self, x: Tensor) -> Tensor:
                return self.linear(x) if op == "call_module" else x.sin()

        graph_module = torch.fx.symbolic_trace(Symbolic())
        for node in graph_module.graph.find_nodes(op="placeholder"):
            node.meta["val"] = torch.ones(2, 2)
        with pytest.raises(ReplayError) as caught:
            Identity()(graph_module)
        assert caught.value.node in ("linear", "sin")

    def test_a_call_of_something_else(self, capture: Capture) -> None:
        graph_module = Identity()(capture(torch.sin, torch.ones(2)).graph_module).graph_module
        next(n for n in graph_module.graph.nodes if n.name == "sin").target = torch.sin
        with pytest.raises(ReplayError) as caught:
            Identity()(graph_module)
        assert caught.value.node == "sin"

    def test_inputs_without_metadata(self, capture: Capture) -> None:
        program = capture(lambda x: torch.sin(x), torch.ones(2))
        graph_module = Identity()(program.graph_module).graph_module
        next(iter(graph_module.graph.nodes)).meta.clear()
        with pytest.raises(ReplayError) as caught:
            Identity()(graph_module)
        assert caught.value.node == "x"

    def test_inputs_of_two_fake_modes(self, capture: Capture) -> None:
        program = capture(lambda x, y: torch.sin(x) + y, torch.ones(2), torch.ones(2))
        graph_module = Identity()(program.graph_module).graph_module
        other = capture(torch.sin, torch.ones(2)).graph.find_nodes(op="placeholder")[0]
        graph_module.graph.find_nodes(op="placeholder")[1].meta["val"] = other.meta["val"]
        with pytest.raises(ReplayError) as caught:
            Identity()(graph_module)
        assert caught.value.node == "y"

    def test_protected_metadata_cannot_be_set(self) -> None:
        meta = NodeMetadata({"val": 1})
        meta["mine"] = 2
        assert meta["mine"] == 2
        assert "mine" in meta
        with pytest.raises(UsageError):
            meta["val"] = 3
        copied = meta.copy()
        copied["mine"] = 4
        assert meta["mine"] == 2


class TestInstances:
    def test_call_can_be_extended(self, capture: Capture) -> None:
        class Twice(Replace):
            def call(self, graph_module: GraphModule) -> PassResult:
                once = super().call(graph_module)
                return super().call(once.graph_module)

        program = capture(lambda x: torch.sin(x), torch.ones(2))
        assert Twice()(program.graph_module).modified is False

    def test_a_pass_may_run_another(self, capture: Capture) -> None:
        class Outer(ExportPass):
            def call_hop(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
                body = Replace()(args[0]).graph_module
                return super().call_hop(op, (body, *args[1:]), kwargs, meta)

        region = bound("export_pass_tests__region")
        x = torch.randn(2)
        changed = applied(Outer(), capture(lambda x: region(torch.sin, torch.sin(x)), x))
        assert_equal(changed(x), torch.cos(torch.sin(x)))

    def test_one_instance_serves_several_threads(self, session: Any) -> None:
        class Slow(Replace):
            def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
                barrier.wait(timeout=10)
                return super().call_operator(op, args, kwargs, meta)

        def run(index: int) -> None:
            size = index + 1
            results[index] = shared(programs[index].graph_module).graph_module(torch.ones(size))[0]

        with torch.no_grad():
            programs = [session.capture(torch.sin, (torch.ones(n),)) for n in (1, 2)]
        barrier, shared = threading.Barrier(2), Slow()
        results: dict[int, Tensor] = {}
        threads = [threading.Thread(target=run, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {index: result.shape for index, result in results.items()} == {0: (1,), 1: (2,)}

    def test_dataclasses_compare_by_their_options(self) -> None:
        assert Replace() == Replace()
        assert Replace() != Replace(new=aten.tan.default)
