"""The graph under construction: nodes, the arguments they take and the attributes they read."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.fx import Graph, GraphModule, Node, Proxy
from torch.nn import Module

from ..._lazy_code import LazyGraphModule
from ..._torch.dispatch import OpOverload
from ..._torch.objects import BackwardState
from ..._torch.proxies import are_slots_kept
from ..._torch.pytree import tree_leaves, tree_map_only
from ..._torch.symbolic import ShapeEnv, compute_unbacked_bindings
from ...errors import UnsupportedError
from .._atoms import ATOMS
from ..memory._metadata import Metadata
from ..memory._symbolic import SymbolicMetadata
from ..provenance._locations import current_location
from ..provenance._module_views import base_of
from ..provenance._origin import Origin
from ..symbols._arithmetic import Arithmetic
from ..symbols._deferred import Deferred
from ..symbols._tracker import SYMBOLIC, SymbolTracker, is_symbolic
from ._attributes import Attributes
from ._cleanup import merge_symbols, remove_unused_symbols
from ._leaks import new_slots
from ._leaves import lower_leaf
from ._nodes import NodeWriter
from ._objects import ObjectSlots, is_constant_object, is_object
from ._slots import Slot
from ._values import ValueRecorder

_WRITTEN = (*ATOMS, type(...), Node)


class Recorder:
    """Builds one graph.

    Args:
        values: Writes node metadata.
        stack_traces: Writes the source lines of calls; None if they are not wanted.
        arithmetic: What has been computed with symbolic numbers; None if that is not remembered.
        lazy_code: Whether to generate code when somebody reads or runs it.
        graph: A graph to add to; a new one by default.
        root: The module that owns what it reads; a new one by default.

    Attributes:
        graph: The graph so far.
        root: The module that owns what `get_attr` nodes read: tensor constants and bodies of
            regions.
        slots: Which node stands for which tensor.
        objects: Which node stands for which script object or opaque object.
        fx_tracer: The tracer as code written for fx's expects it; set by who makes one.
        values: Writes node metadata.
        nodes: Appends nodes.
        symbols: Which node stands for which symbolic number.
        origin: Writes on each node where it comes from.
        attributes: Names of what `get_attr` nodes read.

    Args:
        outer: The recorder of the graph that this one is a region of.
    """

    def __init__(
        self,
        values: ValueRecorder,
        origin: Origin | None = None,
        *,
        lazy_code: bool = True,
        arithmetic: Arithmetic | None = None,
        outer: Recorder | None = None,
        graph: Graph | None = None,
        root: Module | None = None,
    ) -> None:
        self.graph = Graph() if graph is None else graph
        self.root = Module() if root is None else root
        self.slots = new_slots()
        self._whole: Recorder = self if outer is None else outer._whole
        self.objects = ObjectSlots()
        self.fx_tracer: Any = None
        self.values = values
        self.origin = origin or Origin()
        self.attributes: Attributes = Attributes(
            self.root, None if outer is None else outer.attributes.counts
        )
        self._module_class = LazyGraphModule if lazy_code else GraphModule
        self.nodes = NodeWriter(self.graph)
        self.symbols = SymbolTracker(self.graph, self.nodes, self.origin, arithmetic)
        if graph is not None:
            # Whose graph it is sees each node that is added.
            self.symbols.write_all()
        # By identity: hashing an operator runs Python code.
        self._names: dict[int, tuple[OpOverload, str]] = {}
        self._mark = self.origin.mark
        self._object_names: dict[Any, str] = {}

    def placeholder(self, name: str, value: Any, default: tuple[Any, ...] = ()) -> Node:
        """Add an input. `default` is empty or holds the default value of the parameter."""
        node = self._mark(self.graph.create_node("placeholder", name, default, {}))
        self._give(value, node)
        return node

    def read(self, target: str, value: Any) -> Node:
        """Add the read of an attribute that the root has, and let it stand for `value`."""
        node = self._read(target)
        self._give(value, node)
        return node

    def call(
        self,
        target: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        name: str,
    ) -> Node:
        """Add a call whose arguments are the program's own values.

        As in torch's graphs, its numbers are computed before constants among its operands are read.
        """
        if self.symbols.used:
            for leaf in tree_leaves((args, kwargs)):
                if is_symbolic(leaf):
                    self.symbols.lower(leaf)
        lowered = tuple([self.lower(item) for item in args])
        keywords = {key: self.lower(item) for key, item in kwargs.items()}
        return self._mark(self.nodes.call(target, lowered, keywords, self._identifier(name)))

    def write(
        self, operator: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any] | None
    ) -> Node:
        """Add a call of an operator whose arguments are nodes already."""
        known = self._names.get(id(operator))
        if known is None:
            name = self._identifier(operator.overloadpacket.__name__)
            known = self._names[id(operator)] = operator, name
        return self._mark(self.nodes.call(operator, args, kwargs, known[1]))

    def item(self, node: Node, key: Any) -> Node:
        """Add the item of a container."""
        return self._mark(self.nodes.call(operator.getitem, (node, key), None, "getitem"))

    def track(self, value: Any, node: Node, constant: Any = None) -> None:
        """Let `node` stand for `value` from now on; the items of a container get nodes of their
        own.
        """
        if isinstance(value, Tensor) or is_symbolic(value) or is_object(value):
            self.stand_for(value, node, constant)
        elif isinstance(value, (list, tuple, dict)):
            self.values.annotate(node, value)
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for key, item in items:
                self.track(item, self.item(node, key), None if constant is None else constant[key])
        elif isinstance(value, BackwardState):
            self.values.annotate(node, value)
            value.proxy = Proxy(node, self.fx_tracer)

    def stand_for(self, value: Any, node: Node, constant: Tensor | None = None) -> None:
        """Let `node` stand for a tensor, number or object, and describe it as what `node` computes.

        A tensor of the program keeps its node while slots are kept.
        """
        if isinstance(value, Tensor):
            slot = self._slot(value, node, constant)
            if not (are_slots_kept() and self.slots.get(value) is not None):
                self.slots.set(value, slot)
            return
        self.values.annotate(node, value)
        if is_symbolic(value):
            self.symbols.track(value, Deferred.made(node))
        elif not is_constant_object(value):
            self.objects.set(value, node)

    def bind_symbols(self, node: Node, value: Any, shape_env: ShapeEnv | None) -> None:
        """Note on `node` which unbacked symbols came into being in its value, and where.

        Call it once for each operator, before the parts of its value are tracked.
        """
        if shape_env is None or not shape_env.pending_fresh_unbacked_symbols:
            return
        bindings = compute_unbacked_bindings(shape_env, value)
        if bindings:
            node.meta["unbacked_bindings"] = bindings

    def adopt(self, tensor: Tensor, node: Node, metadata: Metadata | SymbolicMetadata) -> None:
        """Let `node` stand for a plain tensor of known metadata, whose numbers are tracked."""
        self.slots.set(tensor, Slot(node, None, metadata))
        self.values.describe(node, tensor, metadata)

    def output(self, value: Any, annotation: Any = None) -> Node:
        """Close the graph. `annotation` is the return annotation of the captured function."""
        if self.symbols.used:
            value = tree_map_only(SYMBOLIC, self.symbols.returned, value)
        lowered = (self.lower(value),)
        node = self.graph.create_node("output", "output", lowered, {}, type_expr=annotation)
        return self._mark(node)

    def lower(self, value: Any) -> Any:
        """Return what stands for `value` in a node's arguments.

        Raises:
            UnsupportedError: No graph can hold such a value, or only the graph of a region can.
        """
        if isinstance(value, Tensor):
            slot = self.slots.get(value)
            return self._attribute(value) if slot is None else slot.node
        if isinstance(value, _WRITTEN):
            return value
        if is_symbolic(value):
            return self.symbols.lower(value)
        if isinstance(value, tuple):
            items = tuple([self.lower(item) for item in value])
            if not hasattr(value, "_fields"):
                return items
            # Generated code can call the type of a named tuple, and cannot write one.
            return self._mark(self.graph.create_node("call_function", type(value), items, {}))
        if isinstance(value, list):
            return [self.lower(item) for item in value]
        if isinstance(value, dict):
            return {key: self.lower(item) for key, item in value.items()}
        if isinstance(value, slice):
            return slice(*[self.lower(item) for item in (value.start, value.stop, value.step)])
        if isinstance(value, Module):
            return self._read(self.attributes.module(base_of(value)))
        if isinstance(value, Proxy):
            return value.node
        return lower_leaf(value, self)

    def constant(self, value: Any, base: str) -> Node:
        """Return a node that reads `value` from an attribute whose name starts with `base`."""
        name = self._object_names.get(value)
        if name is None:
            name = self._object_names[value] = self.attributes.fresh_name(base)
            setattr(self.root, name, value)
        return self._read(name)

    def finish(self, name: str) -> GraphModule:
        """Return the graph as a module; its code is generated when first needed."""
        if self.symbols.used:
            remove_unused_symbols(self.graph)
            merge_symbols(self.graph)
        return self._module_class(self.root, self.graph, name)

    def _give(self, value: Any, node: Node) -> None:
        """Let `node` stand for a value of the caller's."""
        if isinstance(value, Tensor):
            self.slots.set_input(value, self._slot(value, node))
        elif not isinstance(value, _WRITTEN):
            self.track(value, node)

    def _slot(self, tensor: Tensor, node: Node, constant: Tensor | None = None) -> Slot:
        if tensor._has_symbolic_sizes_strides:
            self.symbols.track_sizes(tensor, node)
        metadata = self.values.annotate(node, tensor)
        return Slot(node, constant, metadata)

    def _identifier(self, name: str) -> str:
        return str(self.graph._target_to_str(name))

    def _attribute(self, tensor: Tensor) -> Node:
        if self._whole.slots.was_put_aside_within(tensor):
            raise UnsupportedError(
                "the program uses a tensor that the body of a higher-order operator put aside",
                hint="return the tensor from the body",
                stage="capture",
                location=current_location(),
            )
        node = self._read(self.attributes.tensor(tensor))
        node.meta["val"] = self.values.snapshot(tensor)
        return node

    def _read(self, name: str) -> Node:
        return self._mark(self.graph.create_node("get_attr", name, (), {}))
