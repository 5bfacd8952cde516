"""Whether gradients flow alike through a graph that writes and through one of new values.

With gradients off, a write changes numbers and leaves alone where gradients of the tensor flow; so
does a write through a detached tensor. A new value has no such gradients.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from .._torch.dispatch import set_grad_enabled
from .._torch.pytree import tree_leaves
from ._pure_forms import is_write, written_by
from ._shared_memory import SharedMemory, producer

_DETACHING = (torch.ops.aten.detach.default, torch.ops.aten.detach_.default)


def writes_that_lose_gradients(
    graph_module: GraphModule, memory: SharedMemory, without_gradients: Collection[str]
) -> Iterator[Node]:
    """Yield the writes after which gradients would flow otherwise through new values.

    Gradients are taken to flow from parameters and from inputs whether the examples ask for them or
    not.

    Args:
        graph_module: A graph that was captured above autograd.
        memory: Which of its nodes share memory.
        without_gradients: The placeholders that no gradient ever flows from.
    """
    flow = _Flow(graph_module, memory, without_gradients)
    for node in graph_module.graph.nodes:
        if not is_write(node):
            flow.follow(node)
            continue
        lost = [flow.loses(node, operand) for operand in written_by(node)]
        if any(lost):
            yield node


class _Flow:
    """Where gradients flow, up to some node.

    Attributes:
        is_on: Whether nodes run with gradients.
        tracked: Nodes that gradients flow through.
        cut_off: Views that they do not flow through, whatever they are views of, and the first view
            on the way to each.
    """

    def __init__(
        self, graph_module: GraphModule, memory: SharedMemory, without_gradients: Collection[str]
    ) -> None:
        self.is_on = dict(_modes(graph_module))
        self.tracked: set[Node] = set()
        self.cut_off: dict[Node, Node] = {}
        self._memory = memory
        self._without_gradients = without_gradients
        self._positions = {node: index for index, node in enumerate(graph_module.graph.nodes)}

    def follow(self, node: Node) -> None:
        """Find out whether gradients flow through a node that does not write."""
        if node.op == "placeholder":
            is_tracked = str(node.target) not in self._without_gradients
        elif node.op == "get_attr":
            is_tracked = getattr(node.meta.get("val"), "requires_grad", False)
        else:
            is_stopped = not self.is_on[node] or producer(node).target in _DETACHING
            parent = self._memory.parent(node)
            if parent is not None and (is_stopped or parent in self.cut_off):
                self.cut_off[node] = self.cut_off.get(parent, node)
            is_tracked = not is_stopped and any(
                each in self.tracked for each in node.all_input_nodes
            )
        if is_tracked and _is_floating(node):
            self.tracked.add(node)

    def loses(self, write: Node, operand: Node) -> bool:
        """Return whether a write loses gradients; find out where they flow after it."""
        base = self._memory.base(operand)
        members = () if base is None else self._memory.members(base)
        others = [node for node in members if self._is_before(node, write) and node is not operand]
        root = self.cut_off.get(operand)
        was_tracked = operand in self.tracked
        adds = self.is_on[write] and any(
            each in self.tracked for each in write.all_input_nodes if each is not operand
        )
        if not self.is_on[write]:
            wrong = [node for node in (*others, operand) if node in self.tracked]
            wrong += [write] if was_tracked else []
        elif root is not None:
            outside = [node for node in others if self.cut_off.get(node) is not root]
            wrong = [node for node in outside if adds or node in self.tracked]
        else:
            wrong = [node for node in others if node in self.cut_off and (adds or was_tracked)]
        lost = any(self._is_read(node, write) for node in wrong)

        if root is not None:
            self.cut_off[write] = root
        if adds:
            alike = [node for node in others if self.cut_off.get(node) is root]
            self.tracked.update(node for node in (*alike, operand) if _is_floating(node))
        if operand in self.tracked:
            self.tracked.add(write)
        return lost

    def _is_read(self, node: Node, write: Node) -> bool:
        """Return whether a node is read after a write where gradients are on."""
        for user in node.users:
            if user is write or self._is_before(user, write):
                continue
            if user.op == "output" and node.op == "placeholder":
                continue  # The program returns the operand itself.
            if self.is_on[user] or (is_write(user) and self._is_read(user, user)):
                return True
        return False

    def _is_before(self, node: Node, other: Node) -> bool:
        return self._positions[node] < self._positions[other]


def _modes(graph_module: GraphModule) -> Iterator[tuple[Node, bool]]:
    """Yield each node with whether it runs with gradients; they are on in the beginning."""
    is_on = True
    for node in graph_module.graph.nodes:
        if node.target is set_grad_enabled:
            is_on = bool(node.args[0])
        yield node, is_on


def _is_floating(node: Node) -> bool:
    return any(
        value.dtype.is_floating_point or value.dtype.is_complex
        for value in tree_leaves(node.meta.get("val"))
        if isinstance(value, Tensor)
    )
