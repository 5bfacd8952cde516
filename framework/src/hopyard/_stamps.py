"""Stamps: what proves that a node's metadata is what the node computes.

A stamp is put on a node by who computed its `meta["val"]`: a tracer at the end of a capture, a pass
base for each node that it emits, and a copy of a graph for nodes whose originals have one. It holds
what the value was computed from, and by what: the very objects that the node holds as arguments,
keywords, target and value. Editing a node replaces one of them, so a stamp that still matches its
node says that nobody has touched it. Metadata that is copied to another node leaves the stamp
behind, since it lives on the node and not in the metadata.

That a node was not touched does not say that its operands were not. All stamps of a graph are of
one epoch, in which the values fitted together: a node may be reused if its own stamp matches, and
the new values of its operands are those of the operands' stamps. An epoch also knows its fake mode
and the state that operators can see, and ends when that state changes.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

from torch import Tensor, are_deterministic_algorithms_enabled, get_default_dtype
from torch.fx import Graph, GraphModule, Node

from ._torch.dispatch import (
    disable_torch_function,
    is_cudnn_enabled,
    is_mkldnn_enabled,
    registered_kernels,
)
from ._torch.fake import FakeTensor, FakeTensorMode
from ._torch.symbolic import ShapeEnv

STAMP = "_hopyard_stamp"
"""The attribute of a node that holds its stamp: a plain tuple of what :class:`Stamp` names. It is
read and written past `Node.__setattr__`, which updates look-up tables."""


class Epoch:
    """When stamps were put, and under what circumstances.

    Attributes:
        fake_mode: The mode of all fake values.
    """

    __slots__ = ("_circumstances", "fake_mode")

    def __init__(self, fake_mode: FakeTensorMode) -> None:
        self.fake_mode = fake_mode
        self._circumstances: tuple[Hashable, ...] | None = None

    def begin(self) -> Epoch:
        """Let the stamps of this epoch count from now on: all of them are there."""
        self._circumstances = circumstances(self.fake_mode)
        return self

    def lasts(self) -> bool:
        """Say whether operators would still compute the same."""
        known = self._circumstances
        return known is not None and known == circumstances(self.fake_mode)


class Stamp(NamedTuple):
    """What a node was when its value was computed.

    Attributes:
        args: The node's arguments.
        kwargs: The node's keywords.
        target: What it calls; for the read of an attribute, the attribute.
        val: Its value.
        evidence: What shows that nobody has changed the value in place: versions, and what is
            in containers.
        epoch: When that was.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    target: Any
    val: Any
    evidence: Any
    epoch: Epoch


def stamp_of(node: Node) -> Stamp | None:
    """Return the stamp of a node, whether it matches or not."""
    stamp = node.__dict__.get(STAMP)
    return None if stamp is None else Stamp(*stamp)


def stamp_node(node: Node, epoch: Epoch, target: Any = None) -> None:
    """Stamp a node as it is.

    Args:
        node: A node whose value is known to be what it computes.
        epoch: When.
        target: The attribute, for the read of one.
    """
    meta = node.meta
    val = meta.get("val")
    evidence = NEVER if "unbacked_bindings" in meta else evidence_of(val)
    held = node.target if target is None else target
    node.__dict__[STAMP] = (node._args, node._kwargs, held, val, evidence, epoch)


def stamp_graph(graph_module: GraphModule, fake_mode: FakeTensorMode) -> None:
    """Stamp every node of a graph whose values were just computed, under one fake mode.

    Every capture ends with it, so the common case is written out: `make bench-trace` measures it.
    """
    epoch = Epoch(fake_mode)
    with disable_torch_function():
        for node in graph_module.graph.nodes:
            meta = node.meta
            val = meta.get("val")
            is_read = node.op == "get_attr"
            if type(val) is FakeTensor and not is_read and "unbacked_bindings" not in meta:
                try:
                    version: Any = val._version
                except RuntimeError:
                    version = NEVER
                node.__dict__[STAMP] = (node._args, node._kwargs, node.target, val, version, epoch)
            else:
                stamp_node(node, epoch, _attribute(graph_module, node) if is_read else None)
    epoch.begin()


def carry_stamp(original: Node, copy: Node) -> None:
    """Stamp the copy of a node, with the same metadata and counterparts of its operands.

    A node that was edited since it was stamped has a copy without one.
    """
    stamp = original.__dict__.get(STAMP)
    if stamp is None:
        return
    args, kwargs, target, val, evidence, epoch = stamp
    if args is not original._args or kwargs is not original._kwargs:
        return
    copy.__dict__[STAMP] = (copy._args, copy._kwargs, target, val, evidence, epoch)


def remove_stamps(graph: Graph) -> None:
    """Let every node of a graph be computed anew by the next pass."""
    for node in graph.nodes:
        node.__dict__.pop(STAMP, None)


NEVER = ("never",)
"""The evidence of a value that is another one each time it is computed: one with new symbols."""


def version_of(tensor: Tensor) -> int | None:
    """Return how often a tensor was written to; None if nobody counts.

    Nobody does for tensors of inference mode. Those that were given other data by `tensor.data =`
    say that they are none any more, and count as little.
    """
    try:
        return tensor._version
    except RuntimeError:
        return None


def evidence_of(val: Any) -> Any:
    """Return what changes if somebody changes a value in place.

    For a tensor that is its version, which every operator that writes to it or gives it another
    shape counts on; for a container, what it holds.
    """
    if isinstance(val, Tensor):
        version = version_of(val)
        return NEVER if version is None else version
    if isinstance(val, (list, tuple)):
        return tuple([(item, evidence_of(item)) for item in val])
    if isinstance(val, dict):
        return tuple([(key, item, evidence_of(item)) for key, item in val.items()])
    return None


def is_untouched(val: Any, evidence: Any) -> bool:
    """Say whether nobody has changed a value in place since `evidence` of it was taken."""
    if evidence is NEVER:
        return False
    if isinstance(val, Tensor):
        return bool(val._version == evidence)
    if isinstance(val, (list, tuple)):
        if len(val) != len(evidence):
            return False
        for item, (known, inner) in zip(val, evidence, strict=True):
            if item is not known or not is_untouched(item, inner):
                return False
        return True
    if isinstance(val, dict):
        return len(val) == len(evidence) and all(
            key == known_key and item is known and is_untouched(item, inner)
            for (key, item), (known_key, known, inner) in zip(val.items(), evidence, strict=True)
        )
    return True


def _attribute(graph_module: GraphModule, node: Node) -> Any:
    value: Any = graph_module
    for name in str(node.target).split("."):
        value = getattr(value, name)
    return value


def circumstances(fake_mode: FakeTensorMode) -> tuple[Hashable, ...]:
    """Return what the results of operators depend on besides their operands.

    Modes, transforms and autocast are not among it: values are computed without them.
    """
    return (
        get_default_dtype(),
        are_deterministic_algorithms_enabled(),
        is_mkldnn_enabled(),
        is_cudnn_enabled(),
        len(registered_kernels),
        _knowledge(fake_mode.shape_env),
    )


def _knowledge(shape_env: ShapeEnv | None) -> Hashable:
    """Return what is known of symbols."""
    if shape_env is None:
        return None
    return (
        tuple(shape_env.replacements.items()),
        tuple(shape_env.var_to_range.items()),
        len(shape_env.divisible),
        shape_env.num_deferred_runtime_asserts,
    )
