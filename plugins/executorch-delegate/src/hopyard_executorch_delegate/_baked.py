"""Operands that are part of a partition's bytes: they must still be what they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from hopyard.errors import ProgramError
from hopyard.partitioning import STATE, digest_of
from hopyard.replaying import version_of
from hopyard_hookspecs import Lowered

from ._hop import CALL_DELEGATE


class Baked:
    """Checks that operands have the values that bytes were made of.

    Values are compared once; after that it is enough that nobody has written to the tensor.

    Args:
        digests: The digests of the values, by the operand's position.
    """

    def __init__(self, digests: Mapping[int, str]) -> None:
        self.digests = dict(digests)
        self._known: dict[int, tuple[Tensor, int]] = {}

    def check(self, operands: Sequence[Any], partition: str) -> None:
        """Refuse operands that are not what the bytes were made of.

        Raises:
            ProgramError: One is not.
        """
        for position, digest in self.digests.items():
            operand = operands[position] if position < len(operands) else None
            if isinstance(operand, Tensor) and self._is_known(position, operand):
                continue
            if not isinstance(operand, Tensor) or digest_of(operand) != digest:
                raise ProgramError(
                    f"operand {position} of {partition} is not what it was when the partition was "
                    "lowered, and its values are part of the lowered bytes",
                    hint="delegate the program again after changing its parameters",
                    stage=CALL_DELEGATE.name,
                )
            version = version_of(operand)
            if version is not None:
                self._known[position] = (operand, version)

    def _is_known(self, position: int, operand: Tensor) -> bool:
        # A tensor that is kept is not freed, so that nothing else comes to lie where it is.
        kept, version = self._known.get(position, (None, -1))
        if kept is None:
            return False
        return (
            operand is kept
            or (
                operand.data_ptr() == kept.data_ptr()
                and operand.shape == kept.shape
                and operand.stride() == kept.stride()
                and operand.dtype == kept.dtype
            )
        ) and version_of(operand) == version


def digests_of(lowered: Lowered) -> dict[int, str]:
    """Return the digests of what a partition's bytes are made of, by the operand's position.

    Raises:
        ValueError: A placeholder that is named as baked in is none, or has no constant tensor.
    """
    placeholders = lowered.original_module.graph.find_nodes(op="placeholder")
    positions = {node.name: index for index, node in enumerate(placeholders)}
    found = {}
    for name in getattr(lowered, "baked", ()):
        position = positions.get(name)
        tensor = placeholders[position].meta.get(STATE) if position is not None else None
        if position is None or tensor is None:
            raise ValueError(f"{name!r} is no placeholder with constant state")
        found[position] = digest_of(tensor)
    return found
