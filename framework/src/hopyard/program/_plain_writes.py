"""Writes that no view can see: they are taken out of a graph without tracing it again."""

from __future__ import annotations

from collections import defaultdict

from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from .._torch.fake import FakeTensorMode
from ..tracing import DecompositionTable
from ._operands import storage_of
from ._pure_forms import PureForm, copy_to_inputs, is_alike, is_write, order_items, pure_form


def remove_plain_writes(
    graph_module: GraphModule, fake_mode: FakeTensorMode, decompositions: DecompositionTable
) -> bool:
    """Let operators return new values instead of writing, and copy those of inputs in the end.

    A write can be removed so if its operator has a form that returns the new value, of the same
    kind, and if no other tensor shares memory with what is written.

    Returns:
        Whether it was done. A graph with any other write is left as it is.
    """
    nodes = graph_module.graph.nodes
    writes = [node for node in nodes if is_write(node)]
    bases = _bases(graph_module)
    pure: dict[Node, PureForm] = {}
    for node in writes:
        form = pure_form(node, fake_mode, decompositions)
        if form is None or any(operand not in bases for operand in form.operands):
            return False
        changes = zip(form.operands, form.new_values, strict=True)
        if not all(is_alike(operand.meta["val"], new) for operand, new in changes):
            return False
        pure[node] = form
    current: dict[Node | None, Node] = {}
    for node in list(nodes):
        if node.op == "output":
            copy_to_inputs(node, {base: new for base, new in current.items() if base is not None})
        node.args, node.kwargs = map_arg(
            (node.args, node.kwargs), lambda used: current.get(bases.get(used), used)
        )
        if node in pure:
            new = pure[node].insert_before(node)
            current.update((bases[operand], value) for operand, value in new.items())
    for node in reversed(writes):
        graph_module.graph.erase_node(node)
    order_items(graph_module.graph)
    graph_module.recompile()
    return True


def _bases(graph_module: GraphModule) -> dict[Node, Node]:
    """Return, for each node whose tensor shares memory with no other, which node made the tensor.

    What a write returns is the tensor that it wrote to.
    """
    sharing: dict[int, list[Node]] = defaultdict(list)
    for node in graph_module.graph.nodes:
        storage = storage_of(node.meta.get("val"))
        if storage is not None:
            sharing[storage].append(node)
    bases = {}
    for nodes in sharing.values():
        base, *others = nodes
        if base.op != "get_attr" and all(is_write(node) for node in others):
            bases.update(dict.fromkeys(nodes, base))
    return bases
