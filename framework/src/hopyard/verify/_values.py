"""Whether `meta["val"]` says what a graph computes."""

from __future__ import annotations

import logging
import operator
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from hopyard._torch.dispatch import HigherOrderOperator, OpOverload
from hopyard._torch.fake import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedOperatorException,
    fast_detach,
)
from hopyard._torch.pytree import tree_leaves, tree_map_only

from ._difference import difference
from ._graphs import attribute, same_arguments, walk_graphs
from ._known import KnownValues, described
from ._structure import unsound

_log = logging.getLogger("hopyard.verify")

_UNKNOWABLE = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)
_UNKNOWN = object()
_REFRESH = "compute the metadata of a node anew after changing it"


def check_values(graph_module: GraphModule, since: GraphModule | None = None) -> None:
    """Compute the metadata of every node from that of its operands and compare it with `val`.

    Left out, and logged at debug level with the reason, is what has no metadata of its own to
    compute: what depends on data, operators without a fake kernel, and higher-order operators that
    do not run on fake tensors, whose bodies are checked themselves.

    Args:
        graph_module: A graph of sound structure.
        since: An earlier version that is trusted: nodes that are there under the same name, with
            the same arguments and the same values, are not computed again.

    Raises:
        VerificationError: The first node whose `val` is not what it computes.
    """
    earlier = dict(walk_graphs(since)) if since is not None else {}
    unchanged: set[int] = set()
    known = KnownValues()
    # What a region's caller computes depends on the region, so bodies come first.
    for path, body in reversed(list(walk_graphs(graph_module))):
        if _Values(path, body, earlier.get(path), unchanged, known).check():
            unchanged.add(id(body))


class _Values:
    """The values of one graph.

    They are computed under a fake mode of its own, on aliases: a fake mode is not made for several
    threads, and an operator that changes its operand must not change the graph's metadata.
    """

    def __init__(
        self,
        path: str,
        graph_module: GraphModule,
        since: GraphModule | None,
        unchanged: set[int],
        known: KnownValues,
    ) -> None:
        self._path = path
        self._graph_module = graph_module
        self._unchanged = unchanged
        self._known = known
        self._earlier = {node.name: node for node in since.graph.nodes} if since else {}
        self._mode: FakeTensorMode | None = None

    def check(self) -> bool:
        """Check every node that is not as it was, and say whether all are."""
        nodes = list(self._graph_module.graph.nodes)
        suspects = [node for node in nodes if not self._is_as_before(node)]
        own_mode = self._common_mode(nodes)
        if suspects:
            shape_env = own_mode.shape_env if own_mode is not None else None
            self._mode = FakeTensorMode(shape_env=shape_env, allow_non_fake_inputs=True)
            with _surroundings(self._mode, nodes):
                for node in suspects:
                    self._check_node(node)
        return not suspects and len(nodes) == len(self._earlier)

    def _is_as_before(self, node: Node) -> bool:
        before = self._earlier.get(node.name)
        return (
            before is not None
            and before.op == node.op
            and self._corresponds(node, before)
            and before.target == node.target
            and same_arguments(node.args, before.args, self._corresponds)
            and same_arguments(node.kwargs, before.kwargs, self._corresponds)
        )

    def _corresponds(self, node: Node, before: Node) -> bool:
        if node.name != before.name or not _is_same(node.meta.get("val"), before.meta.get("val")):
            return False
        if node.op != "get_attr":
            return True
        value = attribute(self._graph_module, str(node.target))
        return not isinstance(value, GraphModule) or id(value) in self._unchanged

    def _common_mode(self, nodes: list[Node]) -> FakeTensorMode | None:
        mode: FakeTensorMode | None = None
        for node in nodes:
            value = node.meta.get("val")
            leaves = [value] if isinstance(value, Tensor) else tree_leaves(value)
            for leaf in leaves:
                if not isinstance(leaf, FakeTensor) or leaf.fake_mode is mode:
                    continue
                if mode is not None:
                    raise unsound(
                        self._path,
                        node,
                        "has a value of another fake mode than the nodes before it",
                        "compute it under the fake mode of its operands",
                    )
                mode = leaf.fake_mode
        return mode

    def _check_node(self, node: Node) -> None:
        if node.op == "get_attr":
            value = attribute(self._graph_module, str(node.target))
            if isinstance(value, Tensor):
                self._compare(node, value)
            return
        if node.op != "call_function":
            return
        reason = _reason_to_skip(node)
        if reason:
            _log.debug("%s is not computed: it %s", node.name, reason)
            return
        if node.target is operator.getitem:
            # One of several results is as it was recorded: nothing has to be computed.
            self._compare(node, self._item(node))
            return
        key = self._known.key(node, self._recorded)
        if key is not None:
            found = self._known.find(key)
            if found is None:
                found = self._computed(node)
                self._known.keep(key, found)
        else:
            found = self._computed(node)
        if found is not _UNKNOWN:
            self._compare(node, found)

    def _computed(self, node: Node) -> Any:
        """Return what a node computes, or `_UNKNOWN` if that cannot be told."""
        target: Any = node.target
        args, kwargs = map_arg((node.args, node.kwargs), self._operand)
        try:
            return target(*args, **kwargs)
        except Exception as cause:
            if isinstance(target, HigherOrderOperator) or isinstance(cause, _UNKNOWABLE):
                _log.debug("%s is not computed: %s", node.name, cause)
                return _UNKNOWN
            raise unsound(
                self._path,
                node,
                f"cannot be computed from the values of its operands: {cause}",
                _REFRESH,
            ) from cause

    def _item(self, node: Node) -> Any:
        several: Any
        index: Any
        several, index = [
            self._recorded(each) if isinstance(each, Node) else each for each in node.args
        ]
        try:
            return several[index]
        except (IndexError, KeyError, TypeError) as cause:
            raise unsound(
                self._path, node, f"takes what is not there: {cause}", _REFRESH
            ) from cause

    def _recorded(self, node: Node) -> Any:
        if node.op == "get_attr" and "val" not in node.meta:
            return attribute(self._graph_module, str(node.target))
        return node.meta["val"]

    def _operand(self, node: Node) -> Any:
        value = self._recorded(node)
        if isinstance(value, Tensor):
            return self._alias(value)
        return (
            value if isinstance(value, GraphModule) else tree_map_only(Tensor, self._alias, value)
        )

    def _alias(self, value: Tensor) -> Tensor:
        assert self._mode is not None, "operands are only read while a node is computed"
        if isinstance(value, FakeTensor):
            return fast_detach(self._mode, value)
        aliased: Tensor = self._mode.from_tensor(value, static_shapes=True)
        return aliased

    def _compare(self, node: Node, computed: Any) -> None:
        if described(computed) == described(node.meta["val"]):
            return
        problem = difference(node.meta["val"], computed)
        if problem:
            raise unsound(self._path, node, f"has a wrong meta['val']: {problem}", _REFRESH)


def _reason_to_skip(node: Node) -> str:
    if node.meta.get("val") is None:
        return "has no recorded value"
    if node.meta.get("unbacked_bindings"):
        return "makes symbols for sizes that depend on data"
    tags = node.target.tags if isinstance(node.target, OpOverload) else []
    if torch.Tag.dynamic_output_shape in tags or torch.Tag.data_dependent_output in tags:
        return "depends on data"
    return ""


def _is_same(value: Any, before: Any) -> bool:
    """Say whether two values are one, or hold the same leaves."""
    if value is before:
        return True
    if isinstance(value, Tensor) or isinstance(before, Tensor):
        return False
    leaves, leaves_before = tree_leaves(value), tree_leaves(before)
    return len(leaves) == len(leaves_before) and all(
        one is other for one, other in zip(leaves, leaves_before, strict=True)
    )


@contextmanager
def _surroundings(mode: FakeTensorMode, nodes: list[Node]) -> Generator[None, None, None]:
    """Let operators compute what they compute below autograd, and leave no trace in the symbols."""
    values = tree_leaves([node.meta.get("val") for node in nodes])
    devices = {value.device.type for value in values if isinstance(value, Tensor)}
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for device in sorted(devices):
            if torch.amp.is_autocast_available(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if mode.shape_env is not None:
            stack.enter_context(mode.shape_env.suppress_guards())
            stack.enter_context(mode.shape_env.ignore_fresh_unbacked_symbols())
        stack.enter_context(mode)
        yield
