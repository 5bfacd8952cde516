"""Nothing that is copied is stale: every way to change a graph behind a stamp is noticed."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx

from hopyard import Program
from hopyard.hops import bound
from hopyard.replaying import Computation, stamp_of, version_of
from hopyard.tracing import make_fx
from hopyard.verify import verify, walk_graphs
from hopyard_export_pass import (
    ExportPass,
    ProxyValue,
    ReplayError,
    recompute_everything,
    refresh_metadata,
)

aten = torch.ops.aten
Capture = Callable[..., Program]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What replays compute instead of copying it."""
    targets: list[Any] = []
    compute = Computation.compute

    def noted(self: Computation, target: Any, args: Any, kwargs: Any) -> Any:
        targets.append(target)
        return compute(self, target, args, kwargs)

    monkeypatch.setattr(Computation, "compute", noted)
    return targets


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Buffer(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.sum(torch.sin(x) * self.scale, 0, keepdim=True)
        top, _ = torch.topk(torch.cos(y), 1)
        return torch.exp(top).view([-1])


def graph(**options: Any) -> GraphModule:
    holder = Holder()
    options = {"tracing_mode": "fake", "_allow_non_fake_inputs": True, **options}
    return make_fx(lambda x: holder(x), **options)(torch.ones(3, 4))


def find(graph_module: GraphModule, name: str) -> Node:
    return next(node for node in graph_module.graph.nodes if node.name == name)


def described(graph_module: GraphModule) -> list[Any]:
    """A graph as text, with every value, for comparison."""
    found = []
    for path, body in walk_graphs(graph_module):
        for node in body.graph.nodes:
            val = node.meta.get("val")
            values = val if isinstance(val, (list, tuple)) else [val]
            shown = [
                (str(each.dtype), str(each.shape), str(each.stride()))
                if isinstance(each, Tensor)
                else str(each)
                for each in values
            ]
            tags = {key: node.meta[key] for key in ("tag", "stack_trace") if key in node.meta}
            found.append(
                (
                    path,
                    node.op,
                    node.name,
                    str(node.target),
                    str(node.args),
                    str(node.kwargs),
                    shown,
                    tags,
                )
            )
    return found


def assert_nothing_is_stale(graph_module: GraphModule, work: type = ExportPass) -> GraphModule:
    """Replay with and without reuse; both must say the same, and the truth."""
    with recompute_everything():
        anew = work()(graph_module)
    reused = work()(graph_module)
    assert described(reused.graph_module) == described(anew.graph_module)
    assert reused.modified == anew.modified
    verify(reused.graph_module, propagate=True)
    return reused.graph_module


class TestReuse:
    def test_an_untouched_graph_is_copied(self, computed: list[Any]) -> None:
        graph_module = graph()
        result = ExportPass()(graph_module)
        assert computed == []
        assert result.modified is False
        assert described(result.graph_module) == described(graph_module)

    def test_what_a_pass_makes_is_copied_by_the_next(self, computed: list[Any]) -> None:
        made = CosForSin()(graph()).graph_module
        computed.clear()
        assert ExportPass()(made).modified is False
        assert computed == []

    def test_only_what_changes_is_computed(self, computed: list[Any]) -> None:
        made = CosForSin()(graph()).graph_module
        assert computed == [aten.cos.default]
        verify(made, propagate=True)

    def test_what_follows_a_change_of_type_is_computed(self, computed: list[Any]) -> None:
        made = assert_nothing_is_stale(graph(), ToDouble)
        assert find(made, "exp").meta["val"].dtype == torch.float64
        computed.clear()
        ToDouble()(graph())
        assert aten.exp.default in computed

    def test_programs_and_their_copies_have_stamps(
        self, capture: Capture, computed: list[Any]
    ) -> None:
        program = capture(Holder(), torch.ones(3, 4))
        for each in (program, copy.deepcopy(program), program.with_graph(program.graph_module)):
            assert ExportPass()(each.graph_module).modified is False
        assert computed == []

    def test_a_saved_program_is_computed_anew(
        self, capture: Capture, computed: list[Any], session: Any, tmp_path: Any
    ) -> None:
        program = capture(lambda x: torch.sin(x), torch.ones(2))
        program.save(tmp_path / "program.pt2")
        loaded = session.load(tmp_path / "program.pt2")
        computed.clear()
        ExportPass()(loaded.graph_module)
        assert computed == [aten.sin.default]

    def test_a_foreign_graph_is_computed_once(self, computed: list[Any]) -> None:
        exported = torch.export.export(Holder(), (torch.ones(3, 4),)).graph_module
        once = ExportPass()(exported).graph_module
        count = len(computed)
        assert count > 0
        ExportPass()(once)
        assert len(computed) == count

    def test_reuse_can_be_switched_off(
        self, computed: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        graph_module = graph()
        with recompute_everything():
            ExportPass()(graph_module)
        everything = len(computed)
        monkeypatch.setenv("HOPYARD_RECOMPUTE", "1")
        ExportPass()(graph_module)
        assert len(computed) == 2 * everything > 0

    def test_refresh_metadata(self, computed: list[Any]) -> None:
        graph_module = graph()
        find(graph_module, "cos").target = aten.sin.default
        made = refresh_metadata(graph_module).graph_module
        assert computed == [aten.sin.default]
        verify(made, propagate=True)


class CosForSin(ExportPass):
    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        op = aten.cos.default if op is aten.sin.default else op
        return super().call_operator(op, args, kwargs, meta)


class ToDouble(ExportPass):
    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        value = super().call_operator(op, args, kwargs, meta)
        if op is not aten.sin.default:
            return value
        return super().call_operator(
            aten._to_copy.default, (value,), {"dtype": torch.float64}, meta
        )


# What somebody may do to a graph before a pass replays it.


def change_the_target(graph_module: GraphModule) -> None:
    find(graph_module, "sin").target = aten.isnan.default


def change_an_argument(graph_module: GraphModule) -> None:
    node = find(graph_module, "sum_1")
    node.args = (node.args[0], [1], True)


def change_a_number_in_place_of_an_equal_one(graph_module: GraphModule) -> None:
    node = find(graph_module, "mul")
    node.args = (node.args[0], True)


def change_a_keyword(graph_module: GraphModule) -> None:
    find(graph_module, "sum_1").kwargs = {"dtype": torch.float64}


def replace_an_input(graph_module: GraphModule) -> None:
    find(graph_module, "cos").replace_input_with(
        find(graph_module, "sum_1"), find(graph_module, "sin")
    )


def replace_a_value(graph_module: GraphModule) -> None:
    node = find(graph_module, "sum_1")
    with node.meta["val"].fake_mode:
        node.meta["val"] = torch.empty(7, 7)


def change_a_value_in_place(graph_module: GraphModule) -> None:
    find(graph_module, "sum_1").meta["val"].squeeze_(0)


def resize_a_value(graph_module: GraphModule) -> None:
    find(graph_module, "sum_1").meta["val"].resize_(9, 9)


def replace_an_item_of_a_value(graph_module: GraphModule) -> None:
    node = find(graph_module, "topk")
    node.meta["val"] = [node.meta["val"][1], node.meta["val"][1]]


def change_an_operand_and_its_value(graph_module: GraphModule) -> None:
    # The node is right as it is; those that follow are stale.
    node = find(graph_module, "sin")
    node.target = aten.isnan.default
    with node.meta["val"].fake_mode:
        node.meta["val"] = torch.empty(3, 4, dtype=torch.bool)


def copy_metadata_to_another_node(graph_module: GraphModule) -> None:
    node = find(graph_module, "cos")
    with graph_module.graph.inserting_after(node):
        made = graph_module.graph.call_function(aten.cos.default, (find(graph_module, "sin"),))
    made.meta = dict(node.meta)
    find(graph_module, "topk").args = (made, 1)


def change_an_input_s_value(graph_module: GraphModule) -> None:
    node = graph_module.graph.find_nodes(op="placeholder")[0]
    with node.meta["val"].fake_mode:
        node.meta["val"] = torch.empty(5, 4)


def replace_a_constant(graph_module: GraphModule) -> None:
    name = graph_module.graph.find_nodes(op="get_attr")[0].target
    setattr(graph_module, name, torch.ones(4, dtype=torch.float64))


def resize_a_constant(graph_module: GraphModule) -> None:
    name = graph_module.graph.find_nodes(op="get_attr")[0].target
    getattr(graph_module, name).data = torch.ones(1)


def move_a_node(graph_module: GraphModule) -> None:
    find(graph_module, "sin").prepend(graph_module.graph.find_nodes(op="get_attr")[0])


def insert_a_node(graph_module: GraphModule) -> None:
    node = find(graph_module, "sin")
    with graph_module.graph.inserting_after(node):
        made = graph_module.graph.call_function(aten.sum.dim_IntList, (node, [1], True))
    node.replace_all_uses_with(made)
    made.args = (node, [1], True)


def remove_all_metadata(graph_module: GraphModule) -> None:
    for node in graph_module.graph.nodes:
        if node.op == "call_function":
            node.meta.clear()


def write_metadata(graph_module: GraphModule) -> None:
    find(graph_module, "cos").meta["tag"] = "mine"


EDITS = [
    change_the_target,
    change_an_argument,
    change_a_number_in_place_of_an_equal_one,
    change_a_keyword,
    replace_an_input,
    replace_a_value,
    change_a_value_in_place,
    resize_a_value,
    replace_an_item_of_a_value,
    change_an_operand_and_its_value,
    copy_metadata_to_another_node,
    change_an_input_s_value,
    replace_a_constant,
    resize_a_constant,
    move_a_node,
    insert_a_node,
    remove_all_metadata,
    write_metadata,
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
@pytest.mark.parametrize("mode", ["fake", "symbolic"])
def test_an_edited_graph(edit: Callable[[GraphModule], None], mode: str) -> None:
    graph_module = graph(tracing_mode=mode)
    edit(graph_module)
    made = assert_nothing_is_stale(graph_module)
    # What the first pass made is as good.
    assert_nothing_is_stale(made)


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_a_copy_of_an_edited_graph(edit: Callable[[GraphModule], None], capture: Capture) -> None:
    from hopyard._graph_copy import copy_graph_module

    graph_module = graph()
    edit(graph_module)
    assert_nothing_is_stale(copy_graph_module(graph_module))


# What a callback may do.


class Keywords(ExportPass):
    """Changes keywords only."""

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        if op is aten.sum.dim_IntList:
            kwargs = {**kwargs, "dtype": torch.float64}
        return super().call_operator(op, args, kwargs, meta)


class MoreKeywords(ExportPass):
    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        if op is aten.sum.dim_IntList:
            kwargs = {**kwargs, "dtype": torch.float64}
        return super().call_operator(op, args, kwargs, meta)


class LongerLists(ExportPass):
    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        if op is aten.view.default:
            args = (args[0], [*args[1], 1])
        return super().call_operator(op, args, kwargs, meta)


class OtherData(ExportPass):
    """Makes a handle by hand, with data of another type."""

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        if op is aten.exp.default:
            args = (ProxyValue(args[0].data.double(), args[0].proxy),)
        return super().call_operator(op, args, kwargs, meta)


class DataInPlace(ExportPass):
    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        if op is aten.exp.default:
            args[0].data = args[0].data.double()
        return super().call_operator(op, args, kwargs, meta)


class Twice(ExportPass):
    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        first = super().call_operator(op, args, kwargs, meta)
        return first if op is aten.topk.default else super().call_operator(op, args, kwargs, meta)


class Operand(ExportPass):
    """Returns another value for a node, of another shape."""

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        if op is aten.sum.dim_IntList:
            return args[0]
        return super().call_operator(op, args, kwargs, meta)


class Tag(ExportPass):
    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        meta["tag"] = str(op)
        return super().call_operator(op, args, kwargs, meta)


class ValueOnNode(ExportPass):
    """Writes to the metadata of a node that was just made."""

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        value = super().call_operator(op, args, kwargs, meta)
        value.node.meta["tag"] = "after"
        return value


class Surgery(ExportPass):
    """Edits the graph and lets the base compute its metadata."""

    def call(self, graph_module: GraphModule) -> Any:
        graph_module = copy.deepcopy(graph_module)
        node = find(graph_module, "sin")
        with graph_module.graph.inserting_after(node):
            made = graph_module.graph.call_function(aten._to_copy.default, (node,))
            made.kwargs = {"dtype": torch.float64}
        made.meta = dict(node.meta)
        node.replace_all_uses_with(made)
        made.args = (node,)
        return super().call(graph_module)


CALLBACKS = [
    Keywords, MoreKeywords, LongerLists, Twice, Operand, Tag, ValueOnNode, Surgery
]  # fmt: skip


@pytest.mark.parametrize("work", CALLBACKS)
@pytest.mark.parametrize("mode", ["fake", "symbolic"])
def test_a_callback(work: type, mode: str) -> None:
    assert_nothing_is_stale(assert_nothing_is_stale(graph(tracing_mode=mode), work))


@pytest.mark.parametrize("work", [OtherData, DataInPlace])
def test_data_that_a_callback_gives(work: type) -> None:
    made = work()(graph()).graph_module
    assert find(made, "exp").meta["val"].dtype == torch.float64
    # The next pass finds out that nothing makes such data.
    assert find(ExportPass()(made).graph_module, "exp").meta["val"].dtype == torch.float32


# What may change around the graph.


def test_another_default_dtype(computed: list[Any]) -> None:
    graph_module = make_fx(lambda x: x + torch.zeros(2), tracing_mode="fake")(torch.ones(2))
    zeros = next(node for node in graph_module.graph.nodes if "zeros" in node.name)
    zeros.kwargs = {}
    once = ExportPass()(graph_module).graph_module
    torch.set_default_dtype(torch.float64)
    try:
        made = assert_nothing_is_stale(once)
    finally:
        torch.set_default_dtype(torch.float32)
    assert find(made, "add").meta["val"].dtype == torch.float64


@pytest.mark.parametrize(
    "around",
    [
        torch.enable_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        lambda: torch.device("meta"),
    ],
    ids=["grad", "inference", "autocast", "device"],
)
def test_surroundings_do_not_count(around: Callable[[], Any], computed: list[Any]) -> None:
    program = make_fx(lambda x, y: torch.mm(x, y) + 1, tracing_mode="fake")
    graph_module = program(torch.ones(2, 2), torch.ones(2, 2))
    expected = described(graph_module)
    with around():
        assert described(ExportPass()(graph_module).graph_module) == expected
        assert computed == []
        with recompute_everything():
            made = ExportPass()(graph_module).graph_module
        assert described(made) == expected
    value = find(made, "mm").meta["val"]
    assert (value.requires_grad, value.is_inference()) == (False, False)


def test_transforms_and_captures_around_do_not_count() -> None:
    graph_module = make_fx(torch.sin, tracing_mode="fake")(torch.ones(2))
    seen: list[Any] = []

    def outer(x: Tensor) -> Tensor:
        with recompute_everything():
            seen.append(described(ExportPass()(graph_module).graph_module))
        return x.sum()

    torch.func.grad(outer)(torch.ones(2))
    torch.vmap(outer)(torch.ones(2, 2))
    captured = make_fx(outer, tracing_mode="fake")(torch.ones(2))
    assert seen == [described(graph_module)] * 3
    assert [node.name for node in captured.graph.nodes] == ["x_1", "sum_1", "output"]


def test_a_symbol_that_has_become_a_number(computed: list[Any]) -> None:
    graph_module = make_fx(lambda x: torch.cat([x, x]), tracing_mode="symbolic")(torch.ones(3, 4))
    size = graph_module.graph.find_nodes(op="placeholder")[0].meta["val"].shape[0]
    ExportPass()(graph_module)
    assert computed == []
    assert size == 3
    assert_nothing_is_stale(graph_module)
    assert aten.cat.default in computed


def test_a_body_that_was_edited(capture: Capture) -> None:
    region = bound("export_pass_tests__region")
    program = capture(lambda x: torch.exp(region(lambda t: torch.sin(t) * 2, x)), torch.ones(2))
    _, body = walk_graphs(program.graph_module)
    find(body[1], "sin").target = aten.isnan.default
    made = assert_nothing_is_stale(program.graph_module)
    assert find(made, "exp").meta["val"].dtype == torch.float32
    with find(body[1], "mul").graph.inserting_before(find(body[1], "mul")):
        pass
    find(body[1], "mul").args = (find(body[1], "sin"), 2.0)
    assert_nothing_is_stale(program.graph_module)


def test_a_node_that_makes_symbols_makes_new_ones(computed: list[Any]) -> None:
    graph_module = make_fx(lambda x: torch.exp(torch.nonzero(x) * 2), tracing_mode="symbolic")(
        torch.ones(3)
    )
    first = ExportPass()(graph_module)
    second = ExportPass()(first.graph_module)
    sizes = []
    for made in (graph_module, first.graph_module, second.graph_module):
        node = find(made, "nonzero")
        size = node.meta["val"].shape[0]
        assert list(node.meta["unbacked_bindings"]) == [size.node.expr]
        assert find(made, "exp").meta["val"].shape[0].node.expr == size.node.expr
        sizes.append(str(size))
    assert len(set(sizes)) == 3
    # Another name for a symbol is no change.
    assert (first.modified, second.modified) == (False, False)


def test_symbols_that_somebody_else_has_bound_nowhere() -> None:
    graph_module = make_fx(lambda x: torch.exp(torch.nonzero(x)), tracing_mode="symbolic")(
        torch.ones(3)
    )
    value = find(graph_module, "x_1").meta["val"]
    pending = value.fake_mode.shape_env.pending_fresh_unbacked_symbols
    # As other passes do, which run operators under the fake mode and look no further.
    with value.fake_mode:
        torch.nonzero(value)
    left = list(pending)
    assert left
    made = ExportPass()(graph_module).graph_module
    (symbol,) = find(made, "nonzero").meta["unbacked_bindings"]
    assert symbol not in left
    assert pending == left

    class Failing(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
            torch.nonzero(args[0].data)
            raise ValueError("after making a symbol")

    with pytest.raises(ReplayError):
        Failing()(graph_module)
    assert pending == left


@pytest.mark.parametrize("mode", ["fake", "symbolic"])
def test_a_mask_used_twice(mode: str) -> None:
    def function(x: Tensor, mask: Tensor) -> Tensor:
        return x[mask] + x[mask]

    graph_module = make_fx(function, tracing_mode=mode)(torch.ones(3), torch.ones(3) > 0)
    made = graph_module
    for _ in range(3):
        made = ExportPass()(made).graph_module
        first, second = made.graph.find_nodes(op="call_function", target=aten.index.Tensor)
        bound_symbols = {
            symbol for node in made.graph.nodes for symbol in node.meta.get("unbacked_bindings", ())
        }
        for node in (first, second):
            assert node.meta["val"].shape[0].node.expr in bound_symbols


def test_constants_are_known_in_what_follows() -> None:
    def function(x: Tensor) -> Tensor:
        return x.view(-(torch.tensor(-6)).item())

    graph_module = make_fx(function, tracing_mode="fake")(torch.ones(2, 3))
    assert_nothing_is_stale(graph_module)


class TestShapesChangedInPlace:
    @pytest.mark.parametrize(
        "function",
        [
            lambda x: torch.exp(x.clone().unsqueeze_(0)),
            lambda x: x.clone().t_().squeeze_() + 1,
            lambda x: x.clone().resize_(2, 2) * 2,
        ],
        ids=["unsqueeze", "twice", "resize"],
    )
    def test_the_source_keeps_its_values(self, function: Callable[[Tensor], Tensor]) -> None:
        graph_module = make_fx(function, tracing_mode="fake")(torch.ones(3, 4))
        before = described(graph_module)
        once = ExportPass()(graph_module).graph_module
        assert described(once) == described(graph_module) == before
        assert described(ExportPass()(once).graph_module) == before

    def test_writes_leave_stamps(self, computed: list[Any]) -> None:
        graph_module = make_fx(lambda x: torch.exp(x.add_(1)), tracing_mode="fake")(torch.ones(3))
        with recompute_everything():
            made = ExportPass()(graph_module).graph_module
        computed.clear()
        ExportPass()(made)
        assert computed == []


def test_a_stamp_does_not_outlive_an_edit_in_a_copy() -> None:
    from hopyard._graph_copy import copy_graph_module

    graph_module = graph()
    find(graph_module, "sin").args = (find(graph_module, "sin").args[0],)
    copied = copy_graph_module(graph_module)
    assert stamp_of(find(copied, "sin")) is None
    assert stamp_of(find(copied, "cos")) is not None


def test_items_of_stale_containers(computed: list[Any]) -> None:
    graph_module = graph()
    topk = find(graph_module, "topk")
    topk.args = (topk.args[0], 3)
    made = assert_nothing_is_stale(graph_module)
    item = made.graph.find_nodes(op="call_function", target=operator.getitem)[0]
    assert item.meta["val"].shape == (1, 3)


@pytest.mark.parametrize("mode", ["fake", "symbolic"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_data_of_tensors_of_inference_mode_can_be_replaced(mode: str, requires_grad: bool) -> None:
    # Such a tensor says that it is none of inference mode, and counts no writes.
    def program(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            replaced = torch.stack([x, x])
        replaced.data = torch.stack([x, x]).data
        other = torch.stack([x, x])
        other.data = replaced.data
        return replaced, other

    given = torch.randn(2, 3, requires_grad=requires_grad)
    captured = make_fx(program, tracing_mode=mode)(given)
    assert all(
        mine.equal(theirs) for mine, theirs in zip(captured(given), program(given), strict=True)
    )
    expected = torch_make_fx(program, tracing_mode=mode)(given)
    assert [node.target for node in captured.graph.nodes] == [
        node.target for node in expected.graph.nodes
    ]
    replayed = ExportPass()(captured).graph_module
    assert described(replayed) == described(captured)


def test_who_counts_writes() -> None:
    counting = torch.ones(2).add_(1)
    with torch.inference_mode():
        other = torch.ones(2)
    assert (version_of(counting), version_of(other)) == (1, None)
    other.data = counting.data
    assert not other.is_inference()
    assert version_of(other) is None
