"""Tensors of a capture that outlive it, and where they were made.

A program that puts a tensor aside, on a module or in a list, puts aside a fake one in a fake
capture: it has no data, and whoever meets it later gets an error far from the cause.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor
from torch.fx import Node

from hopyard_hookspecs import SourceLocation

from ..provenance._locations import current_location
from ._slots import Slot, TensorSlots


@dataclass(frozen=True, slots=True)
class Leak:
    """A tensor that was made by a capture and still exists.

    Attributes:
        tensor: The tensor.
        node: The node that computes it.
        location: The line of the user's source that made it.
    """

    tensor: Tensor
    node: Node
    location: SourceLocation | None

    def __str__(self) -> str:
        kind = f"{type(self.tensor).__name__} of shape {tuple(self.tensor.shape)}"
        return f"{self.location or 'unknown line'}: {kind}, computed by node {self.node.name}"


class LeakWatch:
    """Knows the tensors that captures make, without keeping them alive."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[weakref.ref[Tensor], Node, SourceLocation | None]] = {}

    def note(self, tensor: Tensor, node: Node) -> None:
        """Remember who made a tensor; of several nodes, the first."""
        known = self._made.get(id(tensor))
        if known is None or known[0]() is not tensor:
            self._made[id(tensor)] = weakref.ref(tensor), node, current_location()

    def leaks(self) -> list[Leak]:
        """Return the tensors that still exist, in the order in which they were made."""
        gc.collect()
        alive = [(reference(), node, where) for reference, node, where in self._made.values()]
        return [Leak(tensor, node, where) for tensor, node, where in alive if tensor is not None]


class WatchedSlots(TensorSlots):
    """Slots that tell a watch of each tensor but the caller's."""

    def __init__(self, watch: LeakWatch) -> None:
        super().__init__()
        self._watch = watch

    def set(self, tensor: Tensor, slot: Slot) -> None:
        """Give `tensor` a slot."""
        if self.get(tensor) is None:
            self._watch.note(tensor, slot.node)
        super().set(tensor, slot)


class _Watching(threading.local):
    watch: LeakWatch | None = None


_watching = _Watching()


@contextmanager
def watch_leaks() -> Iterator[LeakWatch]:
    """Watch the captures of this thread for tensors that outlive them.

    Example::

        with watch_leaks() as watch:
            graph_module = make_fx(model, tracing_mode="fake")(x)
        for leak in watch.leaks():
            print(leak)  # model.py:12 in forward: FakeTensor of shape (4, 6), computed by node add

    The inputs of a capture are the caller's and never reported.
    """
    outer, _watching.watch = _watching.watch, LeakWatch()
    try:
        yield _watching.watch
    finally:
        _watching.watch = outer


def new_slots() -> TensorSlots:
    """Return slots for a new tracer; watched ones if this thread watches for leaks."""
    return TensorSlots() if _watching.watch is None else WatchedSlots(_watching.watch)
