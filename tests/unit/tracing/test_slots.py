"""Which node stands for which value, asked and told from outside the tracer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import SymInt, Tensor
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.fx import Graph, Node
from torch.fx.experimental import proxy_tensor
from torch.fx.experimental._backward_state import BackwardState
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import hopyard
from hopyard.errors import UsageError
from hopyard.testing import assert_same_graph
from hopyard.tracing import (
    active_tracer,
    get_slot,
    has_slot,
    keep_slots,
    set_slot,
    snapshot,
    track_tensor_tree,
)


def capture(function: Callable[..., Any], *inputs: Any, mode: Any = "real") -> Any:
    return hopyard.make_fx(function, tracing_mode=mode)(*inputs)


def symbolic(*shape: int) -> Tensor:
    """A fake tensor whose sizes are symbols."""
    made: Tensor = FakeTensorMode(shape_env=ShapeEnv()).from_tensor(torch.randn(shape))
    return made


def test_a_tensor_has_the_node_that_computed_it_last(mode: Any) -> None:
    def function(x: Tensor) -> Tensor:
        names.append(get_slot(x).name)
        y = x.sin()
        names.append(get_slot(y, transform=lambda node: node.name))
        y.add_(1)
        names.append(get_slot(y).name)
        return y

    names: list[str] = []
    capture(function, torch.ones(2), mode=mode)
    assert names == ["x_1", "sin", "add_"]


def test_what_is_not_tracked_has_the_default() -> None:
    def function(x: Tensor) -> Tensor:
        assert get_slot(closed_over, default=None) is None
        assert get_slot(closed_over, default=3, transform=str) == 3
        assert not has_slot(closed_over)
        assert not has_slot(3)
        assert has_slot(x)
        with pytest.raises(UsageError) as raised:
            get_slot(closed_over)
        assert raised.value.hint
        return x * closed_over

    closed_over = torch.ones(2)
    capture(function, torch.ones(2))


def test_without_a_capture_there_are_no_slots() -> None:
    assert active_tracer() is None
    for ask in (get_slot, has_slot, lambda x: set_slot(x, Graph().placeholder("x"))):
        with pytest.raises(UsageError):
            ask(torch.ones(1))


def test_asking_for_a_number_makes_its_node() -> None:
    def function(x: Tensor) -> Tensor:
        rows = x.shape[0]
        assert isinstance(rows, SymInt)
        assert has_slot(rows)
        before = len(active_tracer().recorder.graph.nodes)  # type: ignore[union-attr]
        node = get_slot(rows)
        assert node.target is torch.ops.aten.sym_size.int
        assert len(node.graph.nodes) == before + 1
        assert get_slot(rows) is node
        return x.new_zeros(rows)

    assert len(capture(function, symbolic(4, 6), mode="fake").graph.nodes) == 4


def test_who_may_be_replaced(mode: Any) -> None:
    """A tensor takes the node set last, a number keeps the first."""

    def function(x: Tensor) -> Tensor:
        first, other = get_slot(x.sin()), get_slot(x.cos())
        set_slot(x, other, constant=None)
        assert get_slot(x) is other
        rows = x.shape[0]
        if isinstance(rows, SymInt):
            node = get_slot(rows)
            set_slot(rows, first)
            assert get_slot(rows) is node
        return x + 1

    given = symbolic(4, 6) if mode == "fake" else torch.ones(4, 6)
    graph_module = capture(function, given, mode=mode)
    (added,) = graph_module.graph.find_nodes(op="call_function", target=torch.ops.aten.add.Tensor)
    assert added.args[0].name == "cos"


def test_a_value_that_no_node_can_stand_for_is_refused() -> None:
    def function(x: Tensor) -> Tensor:
        with pytest.raises(UsageError):
            set_slot(3, get_slot(x))
        return x

    capture(function, torch.ones(1))


def overwrites(x: Tensor, y: Tensor) -> Tensor:
    x.copy_(y)
    x.copy_(y + 1)
    x.add_(1)
    x.add_(1)
    return x


@pytest.mark.parametrize(
    "kept", [keep_slots, proxy_tensor._proxy_tensor_disable_update_tensor_tracker]
)
def test_in_place_operators_may_leave_slots_alone(kept: Any, as_torch: Any) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        with kept():
            return overwrites(x, y)

    graph_module = as_torch(function, fresh=lambda: (torch.ones(3), torch.zeros(3)))
    (x, _) = graph_module.graph.find_nodes(op="placeholder")
    writes = [node for node in graph_module.graph.nodes if str(node.target).endswith("_.default")]
    assert len(writes) == 2
    assert {node.args[0] for node in writes} == {x}
    assert not proxy_tensor._is_proxy_tensor_update_tensor_tracker_disabled()


def test_in_place_operators_chain_otherwise(as_torch: Any) -> None:
    graph_module = as_torch(overwrites, fresh=lambda: (torch.ones(3), torch.zeros(3)))
    assert len(graph_module.graph.find_nodes(op="placeholder")[0].users) == 1


def test_the_slots_of_two_tracers_are_apart() -> None:
    def outer(x: Tensor) -> Tensor:
        tracer = active_tracer()
        node = get_slot(x)

        def inner(y: Tensor) -> Tensor:
            assert not has_slot(x)
            assert get_slot(x, tracer) is node
            return y + 1

        capture(inner, torch.ones(2))
        return x

    capture(outer, torch.ones(2))


def made_by_hand(graph: Graph, count: int) -> list[Node]:
    return [graph.call_function(torch.neg, (index,)) for index in range(count)]


def test_one_node_for_a_nested_value(mode: Any) -> None:
    def function(x: Tensor) -> Any:
        tracer = active_tracer()
        assert tracer is not None
        value = {"a": [x * 2, (x * 3, None)], "b": 4}
        (node,) = made_by_hand(tracer.recorder.graph, 1)
        assert track_tensor_tree(value, node) is value
        return value["a"][1][0]  # type: ignore[index]

    graph_module = capture(function, torch.ones(2), mode=mode)
    (item,) = graph_module.graph.output_node().all_input_nodes
    path = []
    while item.name != "neg":
        item, key = item.args
        path.append(key)
    assert path == [0, 1, "a"]
    assert item.meta["val"]["a"][1][1] is None
    assert item.meta["val"]["b"] == 4


def test_nodes_in_the_structure_of_the_value(mode: Any) -> None:
    def function(x: Tensor) -> Any:
        tracer = active_tracer()
        assert tracer is not None
        first, second, third = made_by_hand(tracer.recorder.graph, 3)
        values = [x * 2, {"k": (x * 3, x * 4)}]
        track_tensor_tree(values, [first, {"k": (second, third)}])
        return values

    graph_module = capture(function, torch.ones(2), mode=mode)
    operands = graph_module.graph.output_node().args[0]
    assert [operands[0].name, operands[1]["k"][0].name, operands[1]["k"][1].name] == [
        "neg",
        "neg_1",
        "neg_2",
    ]
    assert operands[1]["k"][1].meta["val"].shape == (2,)


def test_nodes_in_another_structure_are_refused() -> None:
    def function(x: Tensor) -> Tensor:
        node = get_slot(x)
        for value, nodes in (([x], [node, node]), ([x], {"a": node}), ({"a": x}, [node])):
            with pytest.raises(UsageError):
                track_tensor_tree(value, nodes)
        return x

    capture(function, torch.ones(2))


def test_a_known_value_can_be_read(mode: Any) -> None:
    def function(x: Tensor) -> Tensor:
        tracer = active_tracer()
        assert tracer is not None
        value = x.sum()
        track_tensor_tree(
            [value], made_by_hand(tracer.recorder.graph, 1), constant=[torch.tensor(7.0)]
        )
        return x * value.item()

    graph_module = capture(function, torch.ones(2), mode=mode)
    (product,) = graph_module.graph.find_nodes(op="call_function", target=torch.ops.aten.mul.Tensor)
    assert product.args[1] == 7.0


def test_state_of_a_backward(as_torch: Any) -> None:
    def function(x: Tensor, state: Any) -> Tensor:
        assert state.proxy.node.op == "placeholder"
        return x + 1

    as_torch(function, fresh=lambda: (torch.ones(2), BackwardState()))


def test_a_size_is_a_container(as_torch: Any) -> None:
    """Importing Hopyard makes torch.Size a pytree, also for those who never import make_fx."""
    as_torch(lambda x, size: (x.view(size) + 1, x.shape), torch.ones(4), torch.Size([2, 2]))
    assert torch.utils._pytree.tree_leaves(torch.Size([2, 3])) == [2, 3]


def test_snapshots() -> None:
    fake = FakeTensorMode().from_tensor(torch.ones(4, 6))
    taken = snapshot(
        {"fake": fake, "real": [torch.ones(2, 3).t(), 3], "sparse": torch.eye(2).to_sparse()}
    )
    fake.t_()
    assert taken["fake"].shape == (4, 6)
    assert taken["fake"].fake_mode is fake.fake_mode
    assert isinstance(taken["real"][0], FakeTensor)
    assert (taken["real"][0].shape, taken["real"][0].stride()) == ((3, 2), (1, 3))
    assert taken["real"][1] == 3
    assert taken["sparse"] is None


def test_snapshots_in_a_capture_are_of_its_fake_mode_and_not_recorded(mode: Any) -> None:
    def function(x: Tensor) -> Tensor:
        taken.append(snapshot(x))
        return x + 1

    taken: list[Any] = []
    graph_module = capture(function, torch.ones(2), mode=mode)
    assert len(graph_module.graph.nodes) == 3
    assert taken[0].fake_mode is next(iter(graph_module.graph.nodes)).meta["val"].fake_mode


def real_values(make_fx: Callable[..., Any]) -> list[bool]:
    with torch._functorch.config.patch(fake_tensor_propagate_real_tensors=True):
        graph_module = make_fx(lambda x, y: x.sin() + y, tracing_mode="fake")(
            torch.ones(2), torch.ones(2)
        )
    values = [node.meta.get("val") for node in graph_module.graph.nodes]
    return [getattr(value, "real_tensor", None) is not None for value in values]


def test_a_placeholder_keeps_the_real_tensor_behind_its_value() -> None:
    assert real_values(hopyard.make_fx) == real_values(torch_make_fx)
    assert real_values(hopyard.make_fx)[:3] == [True, True, False]


def test_a_snapshot_may_keep_the_real_tensor() -> None:
    with torch._functorch.config.patch(fake_tensor_propagate_real_tensors=True):
        fake = FakeTensorMode().from_tensor(torch.ones(2))
    assert snapshot(fake, include_real=True).real_tensor.equal(torch.ones(2))
    assert snapshot(fake).real_tensor is None


def test_torchs_own_accessors_see_our_slots(mode: Any) -> None:
    def function(x: Tensor) -> Tensor:
        tracer: Any = proxy_tensor.get_proxy_mode().tracer  # type: ignore[union-attr]
        y = x.sin()
        slot: Any = proxy_tensor.get_proxy_slot(y, tracer)
        assert slot.proxy.node is get_slot(y)
        assert proxy_tensor.has_proxy_slot(y, tracer)
        proxy_tensor.set_proxy_slot(x, tracer, slot)
        return x * 2

    graph_module = capture(function, torch.ones(2), mode=mode)
    assert_same_graph(
        graph_module, torch_make_fx(lambda x: x.sin() * 2, tracing_mode=mode)(torch.ones(2))
    )
