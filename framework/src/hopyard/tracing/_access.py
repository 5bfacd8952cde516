"""Which node stands for which value of a capture, for rules and transforms outside the tracer.

torch offers the same under `get_proxy_slot`, `set_proxy_slot`, `has_proxy_slot`, `extract_val` and
`track_tensor_tree`. There a tensor has a pair of a proxy and a constant, a number a proxy that is
not yet made, and an object a proxy. Here whatever is tracked has a node, and the tracer need not be
handed around: it is that of the innermost capture on this thread, also while a rule runs and
nothing is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from torch import Tensor
from torch.fx import Node, Proxy

from .._torch.fake import detect_fake_mode
from .._torch.proxies import keep_slots as _keep_slots
from .._torch.pytree import tree_leaves
from ..errors import UsageError
from .bridge._reentry import active_tracer
from .recording._objects import is_object
from .recording._values import ValueRecorder
from .symbols._tracker import is_symbolic

if TYPE_CHECKING:
    from ._tracer import Tracer

_REQUIRED: Final = object()

Nodes = Node | Proxy | Sequence["Nodes"] | Mapping[Any, "Nodes"]
"""A node, or containers of nodes with the structure of the value that they stand for."""


def get_slot(
    value: Any,
    tracer: Tracer | None = None,
    *,
    default: Any = _REQUIRED,
    transform: Callable[[Node], Any] | None = None,
) -> Any:
    """Return the node that stands for a tensor, symbolic number, script or opaque object.

    Asking for a number makes its node: until then the graph need not hold one.

    Example::

        get_slot(x, default=None, transform=lambda node: node.name)

    Args:
        value: What may be tracked.
        tracer: Whose node; the innermost capture's if not given.
        default: What to return for a value that is not tracked.
        transform: Applied to the node, and not to the default.

    Raises:
        UsageError: The value is not tracked and there is no default, or no capture is active.
    """
    node = _find(value, tracer or _active())
    if node is None and default is _REQUIRED:
        raise UsageError(
            f"the capture does not know this {type(value).__name__}",
            hint="it knows its inputs and what its operators returned; pass a default",
            stage="get_slot",
        )
    if node is None:
        return default
    return node if transform is None else transform(node)


def has_slot(value: Any, tracer: Tracer | None = None) -> bool:
    """Say whether a node stands for `value`."""
    tracer = tracer or _active()
    if is_symbolic(value):
        return tracer.recorder.symbols.find(value) is not None
    return _find(value, tracer) is not None


def set_slot(
    value: Any, node: Node | Proxy, tracer: Tracer | None = None, *, constant: Tensor | None = None
) -> None:
    """Let `node` stand for `value`.

    A tensor and a script object get the new node in place of the one they had, since an in-place
    operator changed them. A number and an opaque object keep the node that was set first: all nodes
    of one are as good, and the first depends on the least.

    Args:
        value: A tensor, symbolic number, script or opaque object.
        node: The node, also as a proxy.
        tracer: For whom; for the innermost capture if not given.
        constant: The value of a tensor, if it is known while tracing.

    Raises:
        UsageError: No node can stand for such a value.
    """
    recorder = (tracer or _active()).recorder
    node = _node(node)
    if not (isinstance(value, Tensor) or is_symbolic(value) or is_object(value)):
        raise UsageError(
            f"no node can stand for a value of type {type(value).__name__}",
            hint="give tensors, symbolic numbers, script or opaque objects",
            stage="set_slot",
        )
    recorder.stand_for(value, node, constant)


@contextmanager
def keep_slots() -> Iterator[None]:
    """Let in-place operators leave the nodes of their operands alone, on this thread.

    Two writes to one tensor are two nodes that take the same operand then, and not a chain, so that
    they can end up in different graphs. torch's own tracer does the same meanwhile.
    """
    with _keep_slots():
        yield


def track_tensor_tree(
    value: Any, nodes: Nodes, *, constant: Any = None, tracer: Tracer | None = None
) -> Any:
    """Let nodes stand for the tensors, numbers and objects in a value, and return the value.

    What a node computes is described in its metadata. If one node stands for a container, its items
    get nodes that take them out of it.

    Args:
        value: A leaf, or nested lists, tuples and dicts of them. What is no tensor, number or
            object, and no state of a backward, needs no node and gets none.
        nodes: A node, or containers of nodes with the structure of `value`.
        constant: The values of the tensors, in the structure of `value`, if they are known.
        tracer: For whom; for the innermost capture if not given.

    Raises:
        UsageError: The structures differ, or no capture is active.
    """
    tracer = tracer or _active()
    if isinstance(nodes, (Node, Proxy)):
        node = _node(nodes)
        tracer.recorder.bind_symbols(node, value, tracer.shape_env)
        tracer.recorder.track(value, node, constant)
        return value
    keys = list(value) if isinstance(value, Mapping) else range(len(value))
    if len(nodes) != len(keys) or isinstance(value, Mapping) != isinstance(nodes, Mapping):
        raise UsageError(
            f"nodes for {len(nodes)} items cannot stand for a {type(value).__name__} of "
            f"{len(keys)}",
            hint="give one node for the whole, or containers of the same structure",
            stage="track_tensor_tree",
        )
    for key in keys:
        item = None if constant is None else constant[key]
        track_tensor_tree(value[key], nodes[key], constant=item, tracer=tracer)
    return value


def snapshot(value: Any, *, include_real: bool = False) -> Any:
    """Return what `meta["val"]` holds for a value: a description that later writes do not reach.

    A fake tensor becomes a detached alias of it; a real one a fake tensor of its size and stride,
    without data; a sparse real one None. Containers keep their structure, and everything else is
    its own description.

    Args:
        value: What a node computes.
        include_real: Whether the alias of a fake tensor keeps the real one behind it, if there is
            one; torch does so for placeholders.
    """
    tracer = active_tracer()
    if tracer is not None:
        return tracer.recorder.values.snapshot(value, include_real=include_real)
    tensors = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    return ValueRecorder(detect_fake_mode(tensors)).snapshot(value, include_real=include_real)


def _find(value: Any, tracer: Tracer) -> Node | None:
    recorder = tracer.recorder
    if isinstance(value, Tensor):
        slot = recorder.slots.get(value)
        return None if slot is None else slot.node
    if is_symbolic(value):
        deferred = recorder.symbols.find(value)
        return None if deferred is None else deferred.force()
    return recorder.objects.get(value) if is_object(value) else None


def _active() -> Tracer:
    tracer = active_tracer()
    if tracer is None:
        raise UsageError(
            "no capture of Hopyard is active on this thread",
            hint="call this from a captured function or a trace rule, or pass a tracer",
            stage="tracing",
        )
    return tracer


def _node(node: Node | Proxy) -> Node:
    return node.node if isinstance(node, Proxy) else node
