"""One graph under construction while another is replayed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Node
from torch.nn import Module

from hopyard.errors import UsageError
from hopyard.operators import HigherOrderOperator, OpOverload
from hopyard.tracing import Recorder, ValueRecorder, assign_attribute, fakify

from ._compare import attribute, describe
from ._values import NodeMetadata, ProxyValue, map_leaves


class HandleRecorder(Recorder):
    """A recorder of calls whose arguments are handles, tensors and modules.

    Args:
        values: Writes node metadata.
        reading: Returns the node that reads a tensor or module.
    """

    def __init__(self, values: ValueRecorder, reading: Callable[[Tensor | Module], Node]) -> None:
        super().__init__(values)
        self._reading = reading

    def lower(self, value: Any) -> Any:
        """Return what stands for `value` in a node's arguments."""
        if isinstance(value, ProxyValue):
            return value.node
        if isinstance(value, (Tensor, Module)):
            return self._reading(value)
        if isinstance(value, (OpOverload, HigherOrderOperator)):
            return value  # some operators take another operator as an argument
        return super().lower(value)


class Replay:
    """The graph that a pass makes from one graph.

    Nodes that stay what they were keep their names: the first node emitted with the target of the
    node that is replayed takes its name, and no other node is given a name of the replayed graph.

    Args:
        source: The graph that is replayed.
        fake_mode: Computes the values of both graphs.
        on_attribute: Called with the handle of each tensor that the new graph reads.

    Attributes:
        node: The node that is replayed, or None between nodes.
        fake_mode: As given.
    """

    def __init__(
        self,
        source: GraphModule,
        fake_mode: Any,
        on_attribute: Callable[[ProxyValue], None],
    ) -> None:
        self.node: Node | None = None
        self.fake_mode = fake_mode
        self._source = source
        self._on_attribute = on_attribute
        self._values = ValueRecorder(fake_mode)
        self._recorder = HandleRecorder(self._values, self._reading)
        self._recorder.graph.set_codegen(source.graph._codegen)
        self._names = {node.name for node in source.graph.nodes}
        self._kept: set[str] = set()
        self._bodies: dict[Any, GraphModule] = {}
        self._made_from: dict[int, GraphModule] = {}
        self._reads: dict[int, Node] = {}
        # Objects are known by their identity, which must not pass to others while the graph is
        # built.
        self._alive: list[object] = []

    def placeholder(self, name: str, value: Any, meta: NodeMetadata) -> ProxyValue:
        """Add an input."""
        source = self.node
        is_replayed = source is not None and source.op == "placeholder"
        default = source.args if source is not None and is_replayed else ()
        node = self._recorder.graph.create_node("placeholder", name, default, {})
        self._settle_name(node, name, name)
        node.meta = meta.copy().data
        if isinstance(value, Tensor) or "val" in node.meta:
            self._annotate(node, value)
        # An operator that changes its operand must not reach the metadata.
        return ProxyValue(self._values.snapshot(value), node)

    def call(
        self,
        target: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        meta: NodeMetadata,
    ) -> ProxyValue:
        """Add a call and compute its value."""
        operands = map_leaves(self._data, tuple(args))
        keywords = map_leaves(self._data, dict(kwargs))
        data = target(*operands, **keywords)
        base = _base_name(target)
        node = self._recorder.call(target, args, kwargs, base)
        self._settle_name(node, target, base)
        node.meta = meta.copy().data
        if data is not None or "val" in node.meta:
            self._annotate(node, data)
        return ProxyValue(data, node)

    def output(self, results: Any, meta: NodeMetadata) -> ProxyValue:
        """Close the graph."""
        source = self._source.graph.output_node()
        lowered = (self._recorder.lower(results),)
        node = self._recorder.graph.create_node(
            "output", "output", lowered, {}, type_expr=source.type
        )
        self._settle_name(node, "output", "output")
        node.meta = meta.copy().data
        return ProxyValue(map_leaves(self._data, results), node)

    def read(self, source: Node) -> Any:
        """Replay the read of an attribute and return the attribute, as callbacks are given it."""
        target = str(source.target)
        value = attribute(self._source, target)
        if isinstance(value, (Tensor, Module)):
            current = _find(self._recorder.root, target)
            replaced = current is not None and self._made_from.get(id(current)) is value
            node = self._read_anew(current if replaced else value, target)
            node.meta = dict(source.meta)
            self._announce(node, value)
        return value

    def body(
        self, source: GraphModule, inputs: Sequence[Any], replay: Callable[[], GraphModule]
    ) -> GraphModule:
        """Return what `replay` makes of the body of a region; once for the same body and inputs."""
        key = (id(source), describe(tuple(inputs)))
        if key not in self._bodies:
            made = replay()
            self._bodies[key] = made
            self._made_from[id(made)] = source
            self._alive += [made, source]
        return self._bodies[key]

    def finish(self) -> GraphModule:
        """Return the graph; reads of attributes that lost their last use are left out."""
        used = {node.name for node in self._source.graph.nodes if node.users}
        for node in self._recorder.graph.find_nodes(op="get_attr"):
            if not node.users and node.name in used:
                self._recorder.graph.erase_node(node)
        made = self._recorder.finish(type(self._source).__name__)
        made.meta = dict(self._source.meta)
        return made

    def _data(self, value: Any) -> Any:
        if isinstance(value, ProxyValue):
            return value.data
        if isinstance(value, Tensor) and not _is_fake(value):
            return fakify([value], self.fake_mode)[0]
        return value

    def _annotate(self, node: Node, value: Any) -> None:
        """Write what `value` is, unless that is what the metadata says already."""
        if "val" not in node.meta or describe(node.meta["val"]) != describe(value):
            node.meta.pop("tensor_meta", None)
            self._values.annotate(node, value)

    def _reading(self, value: Tensor | Module) -> Node:
        """Return a node that reads a tensor or module, a new one if need be."""
        known = self._reads.get(id(value))
        if known is not None:
            return known
        if isinstance(value, Tensor) and _is_fake(value):
            raise UsageError(
                "a fake tensor is given as an argument, and would become a constant",
                hint="give the ProxyValue itself instead of its data",
                stage="replay",
            )
        original = self._made_from.get(id(value))
        node = self._reads.get(id(original))
        if node is not None and not node.users:
            target = str(node.target)
            if _find(self._recorder.root, target) is original:
                del self._reads[id(original)]
                assign_attribute(self._recorder.root, target, value)
                return self._remember(value, node)
        base = "_tensor_constant" if isinstance(value, Tensor) else "_module"
        number = 0
        while hasattr(self._recorder.root, f"{base}{number}") or hasattr(
            self._source, f"{base}{number}"
        ):
            number += 1
        node = self._read_anew(value, f"{base}{number}")
        self._announce(node, value)
        return node

    def _read_anew(self, value: Any, target: str) -> Node:
        assign_attribute(self._recorder.root, target, value)
        node = self._recorder.graph.create_node("get_attr", target, (), {})
        self._settle_name(node, target, target.replace(".", "_"))
        return self._remember(value, node)

    def _remember(self, value: Any, node: Node) -> Node:
        self._alive.append(value)
        self._reads[id(value)] = node
        return node

    def _announce(self, node: Node, value: Any) -> None:
        if isinstance(value, Tensor):
            self._annotate(node, self._data(value))
            self._on_attribute(ProxyValue(value, node))

    def _settle_name(self, node: Node, target: Any, base: str) -> None:
        """Give `node` the name of the replayed node if it is the same, and else one of its own."""
        source = self.node
        if source is not None and source.target == target and source.name not in self._kept:
            node.name = source.name
            self._kept.add(source.name)
            return
        number = 0
        while node.name in self._names:
            number += 1
            node.name = f"{base}_{number}"
        self._names.add(node.name)


def _base_name(target: Any) -> str:
    packet = getattr(target, "overloadpacket", target)
    return str(getattr(packet, "__name__", "call"))


def _is_fake(value: Tensor) -> bool:
    return getattr(value, "fake_mode", None) is not None


def _find(root: Module, target: str) -> Any:
    """Return what `target` reads from `root`, or None if it reads nothing yet."""
    try:
        return attribute(root, target)
    except AttributeError:
        return None
