"""Metadata of nodes that passes make by hand."""

from __future__ import annotations

from collections.abc import Collection, Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from hopyard._torch.fake import FakeTensor, FakeTensorMode, fast_detach
from hopyard._torch.pytree import tree_leaves, tree_map_only
from hopyard._torch.symbolic import compute_unbacked_bindings
from hopyard.errors import PassError
from hopyard.tracing import ValueRecorder, fake_mode_for, node_location
from hopyard.verify._graphs import attribute
from hopyard.verify._known import described


def refresh_values(graph_module: GraphModule, nodes: Collection[Node]) -> None:
    """Compute what some nodes of a graph compute, and what follows from that further on.

    `meta["val"]` and `meta["tensor_meta"]` are written anew where the value is of another type,
    and kept where it is of the same: nodes that only use such values are left alone. Bodies of
    regions are not entered.

    Args:
        graph_module: The graph; nodes that are not named have right metadata.
        nodes: The nodes that were made or changed.

    Raises:
        PassError: A node cannot be computed from its operands; the error names it.
    """
    if nodes:
        _Refresh(graph_module).run(nodes)


class _Refresh:
    def __init__(self, graph_module: GraphModule) -> None:
        self._graph_module = graph_module
        values = [node.meta.get("val") for node in graph_module.graph.nodes]
        tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
        self._mode: FakeTensorMode = fake_mode_for(tensors)
        self._devices = sorted({tensor.device.type for tensor in tensors})
        self._recorder = ValueRecorder(self._mode)

    def run(self, nodes: Collection[Node]) -> None:
        changed: set[Node] = set()
        with _below_autograd(self._mode, self._devices):
            for node in self._graph_module.graph.nodes:
                is_meant = node in nodes
                if not is_meant and changed.isdisjoint(node.all_input_nodes):
                    continue
                if self._refresh(node):
                    changed.add(node)

    def _refresh(self, node: Node) -> bool:
        """Compute a node and say whether its value is of another type than its metadata said."""
        if node.op not in ("call_function", "get_attr"):
            return False
        before = node.meta.get("val")
        value = self._computed(node)
        if "val" in node.meta and described(before) == described(value):
            return False
        for key in ("tensor_meta", "unbacked_bindings"):
            node.meta.pop(key, None)
        if isinstance(value, torch.nn.Module):
            return False
        self._recorder.annotate(node, value)
        shape_env = self._mode.shape_env
        if shape_env is not None and shape_env.pending_fresh_unbacked_symbols:
            bindings = compute_unbacked_bindings(shape_env, value)
            if bindings:
                node.meta["unbacked_bindings"] = bindings
        return True

    def _computed(self, node: Node) -> Any:
        if node.op == "get_attr":
            value = attribute(self._graph_module, str(node.target))
            is_tensor = isinstance(value, Tensor)
            return self._mode.from_tensor(value, static_shapes=True) if is_tensor else value
        target: Any = node.target
        args, kwargs = map_arg((node.args, node.kwargs), self._operand)
        try:
            return target(*args, **kwargs)
        except Exception as cause:
            raise PassError(
                f"node {node.name!r} ({node.target}) cannot be computed from its operands: {cause}",
                node=node.name,
                location=node_location(node),
            ) from cause

    def _operand(self, node: Node) -> Any:
        if node.op == "get_attr" and "val" not in node.meta:
            return attribute(self._graph_module, str(node.target))
        return tree_map_only(Tensor, self._alias, node.meta.get("val"))

    def _alias(self, value: Tensor) -> Tensor:
        """Return a tensor that may be written to without changing the metadata of the graph."""
        if isinstance(value, FakeTensor):
            return fast_detach(self._mode, value)
        aliased: Tensor = self._mode.from_tensor(value, static_shapes=True)
        return aliased


@contextmanager
def _below_autograd(mode: FakeTensorMode, devices: list[str]) -> Generator[None, None, None]:
    allowed = mode.allow_non_fake_inputs
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for device in devices:
            if torch.amp.is_autocast_available(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(mode)
        mode.allow_non_fake_inputs = True
        try:
            yield
        finally:
            mode.allow_non_fake_inputs = allowed
