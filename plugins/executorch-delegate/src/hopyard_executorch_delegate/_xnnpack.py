"""XNNPACK as a backend: partitions as blobs of ExecuTorch's XNNPACK delegate.

ExecuTorch's preparation of a partition runs seventeen passes over it. A partition that needs none
of them, because it has neither images nor activations to fuse, is written directly; that is what
transformers are made of, and more than ten times faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node

from hopyard.partitioning import RANGES, STATE, export_partition
from hopyard_hookspecs import Lowered, Support

from ._executorch import ALIGNMENT, RUNTIME, executorch_version, require
from ._format import AtenOperator
from ._xnnpack_support import (
    NEED_PASSES,
    PRODUCTS,
    WITH_NUMBERS,
    aten,
    objection,
    weight_of,
)

NAME = "xnnpack"
"""What the backend is registered as."""


class XnnpackBackend:
    """Lowers partitions for ExecuTorch's XNNPACK delegate.

    Constant operands become part of the blob. Here the reference graph runs; the blob runs in
    ExecuTorch's runtime.

    Raises:
        UsageError: ExecuTorch is not installed.
    """

    def __init__(self) -> None:
        require("the backend 'xnnpack'")

    def fingerprint(self) -> str:
        """Return the version that blobs are made by."""
        return f"executorch {executorch_version()}"

    def supports(self, node: Node, /) -> Support:
        """Say whether XNNPACK takes `node`, and if not, why not."""
        reason = objection(node)
        return Support(not reason, reason)

    def lower(self, partition: GraphModule, options: Mapping[str, Any], /) -> Lowered:
        """Write a partition as a blob."""
        targets = {node.target for node in partition.graph.nodes}
        exported = export_partition(_prepared(partition))
        _retarget(exported.graph_module)
        if targets.isdisjoint(NEED_PASSES):
            blob, stored = _written(exported)
        else:
            blob, stored = _preprocessed(exported)
        named = {key: bytes(stored.buffers[entry.buffer_index]) for key, entry in _entries(stored)}
        alignment = {key: int(entry.alignment) for key, entry in _entries(stored)}
        baked = [
            node.name for node in partition.graph.find_nodes(op="placeholder") if STATE in node.meta
        ]
        meta = {RUNTIME: "XnnpackBackend", ALIGNMENT: alignment}
        return Lowered(partition, NAME, blob, named_data=named, meta=meta, baked=tuple(baked))


def _entries(stored: Any) -> list[tuple[str, Any]]:
    return [] if stored is None else list(stored.pte_data.items())


def _prepared(partition: GraphModule) -> GraphModule:
    """Return a partition with products as `linear`, and numbers as constant tensors."""
    graph = Graph()
    copies: dict[Node, Node] = {}
    # By how they are written, since minus zero is not zero and not-a-number is no key.
    numbers: dict[str, Node] = {}
    example = next(iter(partition.graph.find_nodes(op="placeholder"))).meta["val"]
    for node in partition.graph.nodes:
        if node.op == "placeholder":
            copies[node] = graph.node_copy(node)
    for node in partition.graph.nodes:
        if node.op == "call_function":
            number = node.args[1] if node.target in WITH_NUMBERS else None
            if isinstance(number, (int, float)) and repr(float(number)) not in numbers:
                constant = _constant(graph, float(number), example, len(numbers))
                numbers[repr(float(number))] = constant
            copied = _copied(graph, node, copies, numbers)
            if copied is not None:
                copies[node] = copied
    returned: Any = partition.graph.output_node().args[0]
    graph.output(tuple(copies[each] for each in returned))
    prepared = GraphModule(partition, graph)
    prepared.meta[RANGES] = partition.meta.get(RANGES, {})
    return prepared


def _constant(graph: Graph, number: float, example: Any, index: int) -> Node:
    # Placeholders come first in a graph.
    last = graph.find_nodes(op="placeholder")[-1]
    with graph.inserting_after(last):
        node = graph.placeholder(f"number_{index}")
    value = torch.tensor([number])
    node.meta[STATE] = value
    node.meta["val"] = example.fake_mode.from_tensor(value, static_shapes=True)
    return node


def _copied(
    graph: Graph, node: Node, copies: Mapping[Node, Node], numbers: Mapping[str, Node]
) -> Node | None:
    """Return the copy of a node; None of a transpose that becomes part of a product."""
    if any(weight_of(user.args[PRODUCTS[user.target]]) is not None for user in _products(node)):
        return None
    if node.target in PRODUCTS:
        position = PRODUCTS[node.target]
        weight = weight_of(node.args[position])
        assert weight is not None
        operand: Any = node.args[position - 1]
        bias: Any = node.args[0] if position == 2 else None
        args = (copies[operand], copies[weight], None if bias is None else copies[bias])
        copied = graph.call_function(aten.linear.default, args)
        copied.meta = dict(node.meta)
        return copied
    copied = graph.node_copy(node, copies.__getitem__)
    if node.target in WITH_NUMBERS and not isinstance(node.args[1], Node):
        number: Any = node.args[1]
        copied.target = WITH_NUMBERS[node.target]
        copied.args = (copied.args[0], numbers[repr(float(number))])
        copied.kwargs = {}
    return copied


def _products(node: Node) -> list[Node]:
    return [
        user
        for user in node.users
        if user.target in PRODUCTS and user.args[PRODUCTS[user.target]] is node
    ]


def _retarget(graph_module: GraphModule) -> None:
    """Let a graph call the operators of ExecuTorch's edge dialect."""
    from executorch.exir.dialects._ops import ops

    edge = ops.edge.aten
    named = {
        aten.t.default: edge.permute_copy.default,
        aten.permute.default: edge.permute_copy.default,
        aten.transpose.int: edge.permute_copy.default,
        aten.view.default: edge.view_copy.default,
        aten.native_batch_norm.default: edge._native_batch_norm_legit_no_training.default,
    }
    for node in graph_module.graph.nodes:
        if not isinstance(node.target, AtenOperator):
            continue
        if node.target in (aten.t.default, aten.transpose.int):
            node.args = (node.args[0], _order(node))
        if node.target is aten.native_batch_norm.default:
            node.args = (*node.args[:5], *node.args[6:8])
            node.meta["val"] = tuple(node.meta["val"])
        target = named.get(node.target)
        if target is None:
            _, name, overload = str(node.target).split(".")
            target = getattr(getattr(edge, name), overload)
        node.target = target
    graph_module.recompile()


def _order(node: Node) -> list[int]:
    """Return the order of dimensions that a transpose makes."""
    operand: Any = node.args[0]
    rank = operand.meta["val"].dim()
    order = list(range(rank))
    first, second = node.args[1:3] if len(node.args) > 1 else (0, rank - 1)
    order[first], order[second] = order[second], order[first]  # type: ignore[index]
    return order


def _preprocessed(exported: ExportedProgram) -> tuple[bytes, Any]:
    """Return the blob of a partition as ExecuTorch prepares it."""
    from executorch.backends.xnnpack.xnnpack_preprocess import XnnpackBackend as Preprocessor

    result = Preprocessor.preprocess(exported, [])
    return bytes(result.processed_bytes), result.data_store_output


def _written(exported: ExportedProgram) -> tuple[bytes, Any]:
    """Return the blob of a partition that needs no preparation."""
    from executorch.backends.xnnpack.operators.node_visitor import get_node_visitors
    from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import (
        ConstantDataOffset,
        XNNGraph,
    )
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import (
        serialize_xnnpack_binary,
    )
    from executorch.backends.xnnpack.xnnpack_preprocess import generate_node_to_external_map
    from executorch.exir._serialize._named_data_store import NamedDataStore

    store = NamedDataStore()
    externals = generate_node_to_external_map(exported, exported.graph_module)
    graph = XNNGraph(
        version="0",
        xnodes=[],
        xvalues=[],
        num_externs=len(externals),
        input_ids=[],
        output_ids=[],
        constant_data=[ConstantDataOffset(0, 0)],
    )
    visitors = get_node_visitors(exported, externals, store)
    identifiers: dict[Node, int] = {}
    for index, node in enumerate(exported.graph.nodes):
        if node.op == "call_function":
            visitors[node.target.__name__].define_node(node, graph, identifiers, index)
    return serialize_xnnpack_binary(graph, bytearray()), store.get_named_data_store_output()
