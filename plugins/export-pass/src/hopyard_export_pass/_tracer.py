"""The graph under construction, and what it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node, Proxy, Tracer
from torch.nn import Module, Parameter

from hopyard.errors import UsageError
from hopyard.replaying import (
    COPIED_KEYS,
    FakeTensor,
    FakeTensorMode,
    GraphWriter,
    describe_value,
)
from hopyard.tracing import assign_attribute

from ._compare import attribute
from ._values import ProxyValue, node_of

if TYPE_CHECKING:
    from ._base import ExportPass
    from ._replay import Replay

INHERITED: Final = ("stack_trace", *COPIED_KEYS)
"""Entries that a node inherits from the replayed one also if a pass gives it other metadata."""

_MISSING: Final = object()


class ExportTracer(Tracer):
    """Records the graph that a pass makes.

    Tensors and modules that the graph reads become attributes of `root`, each once. What the
    replayed graph reads keeps its name.

    Args:
        callback: The pass.
        codegen: How code is generated from the graph.
        source: The graph that is replayed, whose names no new node is given; None if there is none.

    Attributes:
        callback: As given.
        graph: The graph so far.
        root: The module that owns what it reads.
        tensor_attrs: The tensors that it reads, by attribute.
        submodules: The modules that it reads, each with its attribute.
        fake_tensor_mode: Describes the values of nodes.
        replay: What the graph is made by.
    """

    def __init__(
        self, callback: ExportPass, codegen: Any, source: GraphModule | None = None
    ) -> None:
        super().__init__(autowrap_modules=())  # type: ignore[arg-type]
        self.callback = callback
        self.writer = GraphWriter(Graph() if source is None else source.graph)
        self.graph = self.writer.graph
        self.graph.set_codegen(codegen)
        self.root = Module()
        self.tensor_attrs: dict[str, Tensor] = {}  # type: ignore[assignment]
        self.submodules: dict[Module, str] = {}
        self.fake_tensor_mode: FakeTensorMode | None = None
        self.replay: Replay | None = None
        self._source = source
        # Objects are known by their identity, which must not pass to others meanwhile.
        self._reads: dict[int, tuple[Any, Node]] = {}
        self._originals: dict[int, tuple[GraphModule, GraphModule]] = {}

    @property
    def node(self) -> Node | None:
        """The node that is replayed, whose metadata new nodes inherit."""
        return None if self.replay is None else self.replay.node

    def trace(self, *args: Any, **kwargs: Any) -> Graph:
        """Refuse: a pass makes its graph from another graph.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            "the tracer of a pass does not trace",
            hint="run the pass on a graph, or capture with hopyard.make_fx",
            stage="ExportTracer",
        )

    def create_arg(self, a: Any) -> Any:
        """Return what stands for `a` in a node's arguments.

        Raises:
            UsageError: It is a fake tensor of unknown value.
        """
        if isinstance(a, ProxyValue):
            return node_of(a)
        if isinstance(a, Proxy):
            return a.node
        if isinstance(a, Node):
            return a
        if isinstance(a, FakeTensor):
            if a.constant is None:
                raise UsageError(
                    "a fake tensor is given as an argument, and would become a constant",
                    hint="give the ProxyValue itself instead of its data",
                    stage="replay",
                )
            a = a.constant
        if isinstance(a, (Tensor, Module)):
            return self._reading(a)
        if isinstance(a, torch.SymInt):
            known = a.node.maybe_as_int()
            return a if known is None else known
        if isinstance(a, tuple):
            items = [self.create_arg(item) for item in a]
            return type(a)(*items) if hasattr(a, "_fields") else tuple(items)
        if isinstance(a, list):
            return [self.create_arg(item) for item in a]
        if isinstance(a, dict):
            return {key: self.create_arg(item) for key, item in a.items()}
        if isinstance(a, slice):
            return slice(*[self.create_arg(item) for item in (a.start, a.stop, a.step)])
        known_read = self._reads.get(id(a))
        return a if known_read is None else known_read[1]

    def create_node(
        self,
        kind: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
        type_expr: Any = None,
    ) -> Node:
        """Add a node, which inherits where it comes from."""
        node = self.graph.create_node(kind, target, args, kwargs, name, type_expr)
        self.inherit(node)
        return node

    def inherit(self, node: Node) -> None:
        """Let a node say that it comes from where the replayed node comes from."""
        if self.node is not None:
            meta = self.node.meta
            node.meta.update({key: meta[key] for key in INHERITED if key in meta})

    def set_metadata(self, node: Node, value: Any) -> None:
        """Write what `value` is into the metadata of the node that computes it."""
        if self.fake_tensor_mode is None:
            raise UsageError(
                "the tracer has no fake mode to describe values with",
                hint="set metadata within a callback",
                stage="ExportTracer",
            )
        describe_value(node, value, self.fake_tensor_mode)

    def read(self, target: str, value: Any, name: str, source: Node) -> Node:
        """Add the read of an attribute of the replayed graph, under its own name."""
        current = self._found(target)
        original = self._originals.get(id(current))
        replaced = original is not None and original[1] is value
        node = self._read_anew(current if replaced else value, target, name)
        if replaced:
            self._reads[id(value)] = (value, node)
        node.meta.update(source.meta)
        return node

    def replace_body(self, made: GraphModule, original: GraphModule) -> None:
        """Note that a body was made from another, whose place it may take."""
        self._originals[id(made)] = (made, original)

    def drop_unused_reads(self) -> None:
        """Remove reads of attributes of the replayed graph that have lost their last use."""
        if self._source is None:
            return
        used = {node.name for node in self._source.graph.find_nodes(op="get_attr") if node.users}
        for node in self.graph.find_nodes(op="get_attr"):
            if not node.users and node.name in used:
                self.graph.erase_node(node)

    def _reading(self, value: Tensor | Module) -> Node:
        """Return a node that reads a tensor or module, a new one if need be."""
        known = self._reads.get(id(value))
        if known is not None:
            return known[1]
        original = self._originals.get(id(value))
        if original is not None:
            place = self._reads.get(id(original[1]))
            if place is not None and not place[1].users:
                return self._put_in_place(value, original[1], place[1])
        target = self._free_target(value)
        node = self._read_anew(value, target, self.writer.fresh_name(target))
        self.inherit(node)
        if isinstance(value, Tensor):
            self.set_metadata(node, value)
            self.callback.on_attr(ProxyValue(value, node))
        return node

    def _put_in_place(self, value: Any, original: GraphModule, node: Node) -> Node:
        target = str(node.target)
        if self._found(target) is original:
            del self._reads[id(original)]
            assign_attribute(self.root, target, value)
            self._reads[id(value)] = (value, node)
            self.submodules.pop(original, None)
            self.submodules[value] = target
            return node
        return self._read_anew(value, self._free_target(value), self.writer.fresh_name("submodule"))

    def _read_anew(self, value: Any, target: str, name: str) -> Node:
        assign_attribute(self.root, target, value)
        node = self.writer.append(name, "get_attr", target, (), {})
        self._reads[id(value)] = (value, node)
        if isinstance(value, Tensor):
            self.tensor_attrs[target] = value
        elif isinstance(value, Module):
            self.submodules[value] = target
        return node

    def _free_target(self, value: Tensor | Module) -> str:
        if isinstance(value, Module):
            base = "submodule_"
        else:
            base = "_param_constant" if isinstance(value, Parameter) else "_tensor_constant"
        number = 0
        while hasattr(self.root, f"{base}{number}") or hasattr(self._source, f"{base}{number}"):
            number += 1
        return f"{base}{number}"

    def _found(self, target: str) -> Any:
        """Return what `target` reads from the root, or a marker if it reads nothing yet."""
        try:
            return attribute(self.root, target)
        except AttributeError:
            return _MISSING
