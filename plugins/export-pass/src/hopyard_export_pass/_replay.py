"""One graph replayed: its nodes are copied where nothing has changed, and computed anew elsewhere.

A node is copied if its stamp matches it, if every operand has the value that the stamp was made
with, and if its callback asks for the very call that the node is. Whatever is computed anew is
compared with what was known: if it is the same in every respect, it takes the known value's place,
and what follows may be copied again.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from hopyard.operators import OpOverload
from hopyard.replaying import (
    ATOMS,
    STAMP,
    Computation,
    Epoch,
    FakeTensor,
    LazyGraphModule,
    describe_value,
    is_indexing_without_mask,
    is_reshaping,
    is_same_value,
    is_untouched,
    is_writing,
    map_nodes,
    repeats,
    stamp_node,
    stamp_of,
)

from ._compare import (
    are_untouched,
    attribute,
    is_described,
    is_fitting,
    is_kept_metadata,
    is_same_argument,
    same_graph,
)
from ._tracer import ExportTracer
from ._values import (
    RECOMPUTED,
    NodeMetadata,
    ProxyValue,
    data_of,
    end_exposure,
    leaves_of,
    node_of,
)

if TYPE_CHECKING:
    from ._base import ExportPass

_UNKNOWN: Final = object()
"""Stands for the value of a node that no stamp tells."""

_new = ProxyValue.__new__


class Replay:
    """The graph that a pass makes from one graph.

    Nodes that stay what they were keep their names: the first node emitted with the target of the
    node that is replayed takes its name, and no other node is given a name of the replayed graph.

    Args:
        callbacks: The pass.
        source: The graph that is replayed.
        computation: Computes values.
        fake_mode: Describes values.
        reuse: Whether nodes that have not changed are copied.
        outer: The replay of the graph that this one's is a body of.

    Attributes:
        node: The node that is replayed.
        computation: As given.
        tracer: Records the new graph.
        copied: The handle of the node's copy, once that is made. It needs no `end`.
    """

    def __init__(
        self,
        callbacks: ExportPass,
        source: GraphModule,
        computation: Computation,
        fake_mode: Any,
        *,
        reuse: bool = True,
        outer: Replay | None = None,
    ) -> None:
        self.computation = computation
        self.tracer = ExportTracer(callbacks, source.graph._codegen, source)
        self.tracer.fake_tensor_mode = fake_mode
        self.tracer.replay = self
        self.reuse = reuse
        self._outer = outer
        self.node: Node = source.graph._root
        self._source = source
        self._fake_mode = fake_mode
        self._append = self.tracer.writer.append
        self._stamped_in = self._epoch_of(source.graph) if reuse else None
        self._epoch = Epoch(fake_mode)
        self._stamps = computation.fake_mode is fake_mode
        self._counterparts: dict[Node, Node] = {}
        self._find = self._counterparts.__getitem__
        self._values: dict[Node, Any] = {}
        self._find_value = self._values.__getitem__
        self._changed: set[Node] = set()
        self._repeating: dict[int, Any] = {}
        self._verbatim = 0
        self._writes = False
        # Of the node that is replayed.
        self.copied: ProxyValue | None = None
        self._named: Node | None = None
        self._copyable = False
        self._known: Any = _UNKNOWN
        self._evidence: Any = None
        self._args: tuple[Any, ...] = ()
        self._kwargs: dict[str, Any] = {}
        self._bodies: dict[int, list[tuple[GraphModule, list[Any], tuple[GraphModule, bool]]]] = {}
        # Tensors whose shape operators of this graph change in place, kept alive.
        self._private: dict[int, Tensor] = {}

    # A node of the replayed graph.

    def begin(self, node: Node) -> None:
        """Turn to a node: find out what is known of it, and whether it may be copied."""
        self.node = node
        self.copied = None
        stamp = node.__dict__.get(STAMP)
        if stamp is None or stamp[5] is not self._stamped_in:
            self._known, self._copyable = _UNKNOWN, False
            return
        args, kwargs, target, val, evidence, _ = stamp
        # The evidence of a tensor is its version.
        if val._version != evidence if type(evidence) is int else not is_untouched(val, evidence):
            self._known, self._copyable = _UNKNOWN, False
            return
        self._known, self._evidence = val, evidence
        self._copyable = (
            args is node._args
            and kwargs is node._kwargs
            and (target is node.target or node.op == "get_attr")
            and node.meta.get("val") is val
            and (not self._changed or self._changed.isdisjoint(node._input_nodes))
        )

    def arguments(self, node: Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return what a callback is given for the arguments of a call; it cannot be changed."""
        find, keywords = self._find_value, node._kwargs
        self._args = map_nodes(node._args, find)
        self._kwargs = map_nodes(keywords, find) if keywords else keywords
        return self._args, self._kwargs

    def end(self, node: Node, value: Any) -> None:
        """Note what a callback returned for a node."""
        self._values[node] = value
        if type(value) is ProxyValue:
            self._counterparts[node] = node_of(value)
            if value._data is self._known:
                return
        else:
            self._counterparts.pop(node, None)
        self._changed.add(node)

    # Emitting.

    def placeholder(self, name: str, value: Any, meta: NodeMetadata) -> ProxyValue:
        """Add an input."""
        source = self.node
        if self._copyable and value is self._known and name is source.target:
            return self._copy(source, meta)
        default = source._args if source.op == "placeholder" else ()
        same = source.op == "placeholder" and self._is_first(name)
        node = self._append(
            self._name(name, name), "placeholder", name, default, {}, source.type if same else None
        )
        untouched = self._give_metadata(node, meta)
        value = self._known_or(value)
        if value is not None or "val" in node.meta:
            self._describe(node, value)
        if same and (untouched or is_kept_metadata(source.meta, node.meta)):
            self._verbatim += is_described(source.meta.get("val"), node.meta.get("val"))
        self._stamp(node, value)
        return ProxyValue(value, node)

    def call(
        self,
        target: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        meta: NodeMetadata,
    ) -> ProxyValue:
        """Add a call, with the value that is known or that is computed now."""
        source = self.node
        if (
            self._copyable
            and target is source.target
            and (self._repeating.get(id(target)) or self._is_repeating(target))
            and (
                args is self._args
                or _are_identical(args, self._args)
                or self._is_given(source._args, tuple(args))
            )
            and (
                kwargs is self._kwargs
                or not (kwargs or self._kwargs)
                or self._is_given(source._kwargs, kwargs)
            )
        ):
            return self._copy(source, meta)
        return self._call_anew(target, tuple(args), dict(kwargs), meta)

    def getitem(self, value: ProxyValue, key: Any, meta: NodeMetadata) -> ProxyValue:
        """Add the choice of one of several results."""
        source = self.node
        if self._copyable and source.target is operator.getitem:
            given_value, given_key = self._args
            if value is given_value and key is given_key:
                return self._copy(source, meta)
        return self.call(operator.getitem, (value, key), {}, meta)

    def output(self, results: Any, meta: NodeMetadata) -> ProxyValue:
        """Close the graph."""
        source = self._source.graph.output_node()
        args = (self.tracer.create_arg(results),)
        node = self._append(
            self._name("output", "output"), "output", "output", args, {}, source.type
        )
        untouched = self._give_metadata(node, meta)
        if "val" in node.meta:
            node.meta["val"] = self._known_or(data_of(results))
        if (
            self.node is source
            and self._is_counterpart(source._args, args)
            and (untouched or is_kept_metadata(source.meta, node.meta))
        ):
            self._verbatim += 1
        self._stamp(node, node.meta.get("val"))
        return ProxyValue(data_of(results), node)

    def read(self, source: Node) -> None:
        """Replay the read of an attribute. Callbacks are given the attribute itself."""
        target = str(source.target)
        value = attribute(self._source, target)
        if type(value) in ATOMS:
            self._values[source] = value
            self._changed.add(source)
            return
        node = self.tracer.read(target, value, self._name(target, target), source)
        self._counterparts[source] = node
        self._values[source] = value
        self._verbatim += 1
        if not isinstance(value, Tensor):
            return
        stamp = stamp_of(source) if self._copyable else None
        if stamp is None or stamp.target is not value or not is_fitting(value, stamp.val):
            self._describe(node, value)
            if is_same_value(node.meta["val"], self._known):
                node.meta["val"] = self._known
            else:
                self._changed.add(source)
            if not is_described(source.meta.get("val"), node.meta["val"]):
                self._verbatim -= 1
        if self._stamps:
            stamp_node(node, self._epoch, value)
        self.tracer.callback.on_attr(ProxyValue(value, node))

    def for_body(self, body: GraphModule) -> Replay:
        """Return what replays the body of a region of this graph."""
        return Replay(
            self.tracer.callback,
            body,
            self.computation,
            self._fake_mode,
            reuse=self.reuse,
            outer=self,
        )

    def body(
        self,
        source: GraphModule,
        values: Sequence[Any],
        replay: Callable[[], tuple[GraphModule, bool]],
    ) -> tuple[GraphModule, bool]:
        """Return what `replay` makes of the body of a region; once for the same body and inputs."""
        for known, given, result in self._bodies.get(id(source), ()):
            if known is source and is_same_value(given, list(values)):
                return result
        result = replay()
        self._bodies.setdefault(id(source), []).append((source, list(values), result))
        self.tracer.replace_body(result[0], source)
        return result

    def finish(self) -> tuple[GraphModule, bool]:
        """Return the graph, and whether it differs from the replayed one."""
        tracer = self.tracer
        tracer.drop_unused_reads()
        made = LazyGraphModule(tracer.root, tracer.graph, type(self._source).__name__)
        made.meta = dict(self._source.meta)
        if self._writes:
            self._stamp_again(made)
        self._epoch.begin()
        is_exposed = end_exposure(tracer.graph)
        is_verbatim = (
            self._verbatim == len(self._source.graph.nodes) == len(tracer.graph.nodes)
            and not self._bodies
            and (not is_exposed or are_untouched(tracer.graph, self._source.graph))
        )
        return made, not is_verbatim and not same_graph(self._source, made)

    # How a call becomes a node.

    def _copy(self, source: Node, meta: NodeMetadata) -> ProxyValue:
        # A call of `self._append` would look for a method first.
        append, find = self._append, self._find
        args, keywords, target = source._args, source._kwargs, source.target
        node = self._counterparts[source] = append(
            source.name,
            source.op,
            target,
            map_nodes(args, find) if args else args,
            map_nodes(keywords, find) if keywords else keywords,
            source.type,
        )
        self._copyable = False
        own, known = source.meta, self._known
        if type(meta) is NodeMetadata and meta._data is None and meta._origin is own:
            node.meta.update(own)
            self._verbatim += 1
        else:
            self._give_metadata(node, meta)
            _take_over(RECOMPUTED, own, node.meta)
            self._verbatim += is_kept_metadata(own, node.meta)
        evidence, epoch = self._evidence, self._epoch
        node.__dict__[STAMP] = (node._args, node._kwargs, target, known, evidence, epoch)
        handle = self.copied = self._values[source] = _new(ProxyValue)
        handle._data, handle._place = known, node
        return handle

    def _call_anew(
        self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: NodeMetadata
    ) -> ProxyValue:
        source, create_arg = self.node, self.tracer.create_arg
        if is_reshaping(target):
            self._make_private((args, kwargs))
        data = self.computation.compute(target, data_of(args), data_of(kwargs))
        self._writes = self._writes or is_writing(target)
        lowered, keywords = create_arg(args), create_arg(kwargs)
        is_first = self._is_first(target)
        node = self._append(
            self._name(target, _base_name(target)),
            "call_function",
            target,
            lowered,
            keywords,
            source.type if is_first else None,
        )
        untouched = self._give_metadata(node, meta)
        bindings = self.computation.bindings(data)
        node.meta.pop("unbacked_bindings", None)
        if bindings:
            node.meta["unbacked_bindings"] = bindings
        else:
            data = self._known_or(data)
        if data is not None or "val" in node.meta:
            self._describe(node, data)
        if (
            is_first
            and self._is_counterpart(source._args, lowered)
            and self._is_counterpart(source._kwargs, keywords)
            and (untouched or is_kept_metadata(source.meta, node.meta))
        ):
            self._verbatim += is_described(source.meta.get("val"), node.meta.get("val"))
        if _are_of_their_nodes((args, kwargs)):
            self._stamp(node, data)
        return ProxyValue(data, node)

    def _known_or(self, value: Any) -> Any:
        """Return what was known to be the value, if that is the same in every respect."""
        for known in (self._known, self.node.meta.get("val")):
            if known is not _UNKNOWN and is_same_value(value, known):
                return known
        return value

    def _describe(self, node: Node, value: Any) -> None:
        """Write what `value` is, unless that is what the metadata says already."""
        if id(value) in self._private:
            value = self.computation.alias(value)
        recorded = self.node.meta.get("val")
        if value is recorded and node.meta.get("val") is recorded:
            return
        if "val" in node.meta and is_described(recorded, value):
            node.meta["val"] = value if _is_metadata(value) else recorded
            return
        describe_value(node, value, self._fake_mode)

    def _stamp(self, node: Node, value: Any) -> None:
        if self._stamps and node.meta.get("val") is value:
            stamp_node(node, self._epoch)

    def _stamp_again(self, made: GraphModule) -> None:
        """Stamp nodes whose values were written to, as operators in place write to operands."""
        for node in made.graph.nodes:
            stamp = stamp_of(node)
            if stamp is not None:
                stamp_node(node, self._epoch, stamp.target)

    def _give_metadata(self, node: Node, meta: NodeMetadata) -> bool:
        """Write the metadata that a callback gave, and say whether it is the replayed node's."""
        if type(meta) is NodeMetadata and meta.is_untouched_copy_of(self.node):
            node.meta.update(self.node.meta)
            return True
        if node.op == "call_function":
            self.tracer.inherit(node)
        node.meta.update(meta.data)
        return False

    def _make_private(self, arguments: Any) -> None:
        """Give handles tensors of their own, since an operator changes their shape in place.

        What follows is computed anew: who shares a tensor with whom is not known of values.
        """
        self.forget()
        for leaf in leaves_of(arguments):
            if not isinstance(leaf, ProxyValue) or not isinstance(leaf.data, Tensor):
                continue
            if id(leaf.data) not in self._private:
                leaf.data = self.computation.alias(leaf.data)
                self._private[id(leaf.data)] = leaf.data

    def forget(self) -> None:
        """Let everything that follows be computed anew."""
        self._stamped_in, self._copyable, self._known = None, False, _UNKNOWN
        if self.copied is not None:
            self._named, self.copied = self.node, None
        if self._outer is not None:
            self._outer.forget()

    # Comparing a call with the node that is replayed.

    def _is_first(self, target: Any) -> bool:
        return self._named is not self.node and self.copied is None and self.node.target == target

    def _is_repeating(self, target: Any) -> bool:
        """Say whether a target that is not known to repeat its results does so for this node."""
        if repeats(target):
            # The target is kept, so that its identity stays its own.
            self._repeating[id(target)] = target
            return True
        return is_indexing_without_mask(target, self._known)

    def _is_given(self, recorded: Any, given: Any) -> bool:
        """Say whether a callback gave what it was given for an argument of the node."""
        if isinstance(recorded, Node):
            return self._values[recorded] is given
        return is_same_argument(recorded, given, self._is_given)

    def _is_counterpart(self, recorded: Any, lowered: Any) -> bool:
        """Say whether an argument of a new node is the counterpart of the node's."""
        if not isinstance(recorded, Node):
            return is_same_argument(recorded, lowered, self._is_counterpart)
        counterpart = self._counterparts.get(recorded)
        if counterpart is lowered:
            return True
        # An attribute may be read by several nodes.
        return (
            counterpart is not None
            and isinstance(lowered, Node)
            and counterpart.op == lowered.op == "get_attr"
            and counterpart.target == lowered.target
        )

    def _name(self, target: Any, base: str) -> str:
        """Return the name of the replayed node if it is the same, and else one of its own."""
        source = self.node
        if self._is_first(target):
            self._named = source
            return source.name
        return self.tracer.writer.fresh_name(base)

    def _epoch_of(self, graph: Graph) -> Epoch | None:
        """Return the epoch of the graph's stamps, if it lasts and is of the fake mode."""
        for node in graph.nodes:
            stamp = stamp_of(node)
            if stamp is not None:
                epoch = stamp.epoch
                return epoch if epoch.fake_mode is self._fake_mode and epoch.lasts() else None
        return None


def _are_identical(left: Sequence[Any], right: tuple[Any, ...]) -> bool:
    return len(left) == len(right) and all(map(operator.is_, left, right))


def _are_of_their_nodes(arguments: Any) -> bool:
    """Say whether handles have the values of their nodes, and not others that a pass made up."""
    for leaf in leaves_of(arguments):
        if isinstance(leaf, ProxyValue):
            stamp = stamp_of(node_of(leaf))
            if stamp is None or stamp.val is not leaf.data:
                return False
    return True


def _take_over(keys: Iterable[str], source: Mapping[str, Any], target: dict[str, Any]) -> None:
    """Make entries what they are in `source`."""
    for key in keys:
        if key in source:
            target[key] = source[key]
        else:
            target.pop(key, None)


def _is_metadata(value: Any) -> bool:
    """Say whether a value can stand in metadata as it is."""
    return all(
        isinstance(leaf, FakeTensor) or not isinstance(leaf, Tensor) for leaf in leaves_of(value)
    )


def _base_name(target: Any) -> str:
    packet = target.overloadpacket if isinstance(target, OpOverload) else target
    return str(getattr(packet, "__name__", "call"))
