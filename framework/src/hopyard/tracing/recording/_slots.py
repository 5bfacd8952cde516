"""Which node stands for which tensor."""

from __future__ import annotations

import itertools
import weakref
from dataclasses import dataclass

from torch import Tensor
from torch.fx import Node

from ..._torch.fake import FakeTensor
from ..memory._metadata import Metadata
from ..memory._symbolic import SymbolicMetadata

_serial = itertools.count()
_PREFIX = "_hopyard_slot_"


@dataclass(slots=True)
class Slot:
    """What a tracer knows of a tensor.

    Attributes:
        node: The node that computes it.
        constant: Its value, if the value is known while tracing.
        metadata: What it looked like when it was last recorded, if it is plain and dense.
    """

    node: Node
    constant: Tensor | None = None
    metadata: Metadata | SymbolicMetadata | None = None


class TensorSlots:
    """The slots of one tracer, kept on the tensors themselves.

    An attribute on the tensor costs a twentieth of a weak dictionary. Its name is unique to the
    tracer, so that nested captures and captures on other threads do not see each other's slots, and
    it is removed from every surviving tensor when the capture ends. On fake tensors that a capture
    made, an empty slot may stay; it refers to nothing.

    Attributes:
        attribute: The name of the attribute.
    """

    def __init__(self) -> None:
        self._number = next(_serial)
        self.attribute = f"{_PREFIX}{self._number}"
        self._tensors: list[weakref.ref[Tensor]] = []
        self._slots: list[Slot] = []
        self._constants: dict[int, list[Slot]] = {}

    def get(self, tensor: Tensor) -> Slot | None:
        """Return the slot of `tensor`, or None if this tracer never saw it."""
        slot: Slot | None = tensor.__dict__.get(self.attribute)
        return slot

    def is_known_within(self, tensor: Tensor) -> bool:
        """Say whether this tracer, or one that was made later, has seen `tensor`."""
        return any(
            name.startswith(_PREFIX)
            and int(name[len(_PREFIX) :]) >= self._number
            and hasattr(slot, "node")
            for name, slot in tensor.__dict__.items()
        )

    def was_put_aside_within(self, tensor: Tensor) -> bool:
        """Say whether a capture within this one made a fake tensor, has ended, and left it to
        nobody.
        """
        slots = [(name, slot) for name, slot in tensor.__dict__.items() if name.startswith(_PREFIX)]
        if any(hasattr(slot, "node") for _, slot in slots):
            return False
        return any(int(name[len(_PREFIX) :]) > self._number for name, _ in slots)

    def set(self, tensor: Tensor, slot: Slot) -> None:
        """Give `tensor` a slot; an in-place operation replaces the one it had."""
        attributes = tensor.__dict__
        if type(tensor) is FakeTensor:
            self._slots.append(slot)
        elif self.attribute not in attributes:
            self._tensors.append(weakref.ref(tensor))
        attributes[self.attribute] = slot
        if slot.constant is not None:
            self._constants.setdefault(_memory_of(tensor), []).append(slot)

    def forget_constants(self, tensor: Tensor) -> None:
        """Take the values of tensors that share memory with `tensor` for unknown from now on."""
        for slot in self._constants.pop(_memory_of(tensor), ()):
            slot.constant = None

    def set_input(self, tensor: Tensor, slot: Slot) -> None:
        """Give a tensor of the caller's a slot; it is removed whatever the kind of tensor."""
        self._tensors.append(weakref.ref(tensor))
        tensor.__dict__[self.attribute] = slot

    def clear(self) -> None:
        """Remove the slots from tensors that are still alive, and empty those of fakes."""
        for slot in self._slots:
            del slot.node, slot.constant, slot.metadata
        self._slots.clear()
        self._constants.clear()
        for reference in self._tensors:
            tensor = reference()
            if tensor is not None:
                tensor.__dict__.pop(self.attribute, None)
        self._tensors.clear()


def is_left_over(tensor: Tensor) -> bool:
    """Say whether a capture that has ended made a tensor: its slot is there and empty."""
    slots = [slot for name, slot in tensor.__dict__.items() if name.startswith(_PREFIX)]
    return any(not hasattr(slot, "node") for slot in slots)


def _memory_of(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
