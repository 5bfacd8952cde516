"""Values that are known while tracing.

`torch.tensor(3)` inside a program makes a constant. If it has one element, its value is carried
along, so that `.item()` on it, or on what is computed from such constants alone, returns a number
instead of failing. Random operators and factories do not make constants; neither does anything
larger than one element, which could be costly to compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..._torch.dispatch import OpOverload
from ..._torch.fake import unset_fake_temporarily
from ..._torch.pytree import TreeSpec, tree_leaves, tree_unflatten
from ..symbols._tracker import SYMBOLIC
from ._slots import Slot, TensorSlots

LARGEST_CONSTANT = 1
"""Number of elements up to which a value is carried along."""

aten = torch.ops.aten


class ConstantFolder:
    """Computes with the constants among one operator's operands."""

    def __init__(self, slots: TensorSlots, leaves: Sequence[Any], spec: TreeSpec) -> None:
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        self._slots = [slots.get(tensor) for tensor in tensors]
        self._leaves = leaves
        self._spec = spec
        self._lookup = slots.get

    @property
    def all_constant(self) -> bool:
        """Whether no operand is a tracked value without a constant, or symbolic."""
        if any(isinstance(leaf, SYMBOLIC) for leaf in self._leaves):
            return False
        return all(slot is None or slot.constant is not None for slot in self._slots)

    @property
    def any_constant(self) -> bool:
        """Whether some operand is a constant."""
        return any(slot is not None and slot.constant is not None for slot in self._slots)

    def evaluate(self, operator: OpOverload) -> Any:
        """Apply `operator` to the constants in place of the traced values."""
        leaves = [self._value(leaf) for leaf in self._leaves]
        args, kwargs = tree_unflatten(leaves, self._spec)
        with unset_fake_temporarily():
            return operator(*args, **kwargs)

    def result(self, operator: OpOverload, args: Sequence[Any], output: Any) -> Any:
        """Return the constant value of an operator's output, or None if it has none."""
        if operator is aten.lift_fresh_copy.default:
            if output.numel() > LARGEST_CONSTANT:
                return None
            with unset_fake_temporarily():
                return args[0].clone()
        if torch.Tag.nondeterministic_seeded in operator.tags:
            return None
        if not (self.any_constant and self.all_constant and _is_small(output)):
            return None
        return self.evaluate(operator)

    def _value(self, leaf: Any) -> Any:
        slot: Slot | None = self._lookup(leaf) if isinstance(leaf, Tensor) else None
        return leaf if slot is None else slot.constant


def _is_small(output: Any) -> bool:
    tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    return all(tensor.numel() <= LARGEST_CONSTANT for tensor in tensors)
