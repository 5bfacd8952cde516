"""What a program is given when it runs: values for its placeholders, and memory that they share.

A pure graph reads all operands before it writes any, so a write to memory that another operand
shares would be seen too late. Such programs and such calls are refused; operands that are only read
may share memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.export.graph_signature import ExportGraphSignature, InputKind, OutputKind

MUTATIONS = (
    OutputKind.BUFFER_MUTATION,
    OutputKind.PARAMETER_MUTATION,
    OutputKind.USER_INPUT_MUTATION,
)
"""Kinds of outputs that are written back instead of being returned."""


def distinct(values: Iterable[Any]) -> list[Any]:
    """Return `values` with an alias in place of each tensor that occurred before.

    To a tracer one tensor is one value. The graph must also be right for two tensors.
    """
    seen: set[int] = set()
    result = []
    for value in values:
        if isinstance(value, Tensor) and id(value) in seen:
            result.append(value.detach().requires_grad_(value.requires_grad))
        else:
            result.append(value)
            seen.add(id(value))
    return result


def operands_of(
    signature: ExportGraphSignature, tensors: Mapping[str, Any], leaves: Sequence[Any]
) -> dict[str, Any]:
    """Return the value of every placeholder, by its name.

    Args:
        signature: What the placeholders stand for.
        tensors: Parameters, buffers and constants.
        leaves: The user's inputs.
    """
    inputs = iter(leaves)
    return {
        spec.arg.name: next(inputs)
        if spec.kind is InputKind.USER_INPUT
        else tensors[str(spec.target)]
        for spec in signature.input_specs
    }


def written_operands(signature: ExportGraphSignature) -> tuple[str, ...]:
    """Return the names of the placeholders whose values a program changes."""
    by_target = {spec.target: spec.arg.name for spec in signature.input_specs}
    return tuple(
        by_target.get(spec.target, str(spec.target))
        for spec in signature.output_specs
        if spec.kind in MUTATIONS
    )


def apart_from_history(written: Collection[str], operands: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `operands`, with copies of the written ones if the call records gradients.

    What autograd saves for the backward pass must not be changed when the call has ended.
    """
    records = (
        written
        and torch.is_grad_enabled()
        and any(isinstance(value, Tensor) and value.requires_grad for value in operands.values())
    )
    if not records:
        return operands
    return {**operands, **{name: operands[name].clone() for name in written}}


def shared_write(written: Collection[str], operands: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the names of an operand that is written and of another that overlaps it, if any do."""
    if not written:
        return None
    places = {name: place for name, value in operands.items() if (place := _place(value))}
    for name in written:
        for other, place in places.items():
            if other != name and name in places and _overlap(places[name], place):
                return name, other
    return None


def storage_of(value: Any) -> int | None:
    """Return the identity of a tensor's storage, or None if the value has no single one."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided:
        return None
    return int(value.untyped_storage()._cdata)


def _place(value: Any) -> tuple[int, int, int] | None:
    storage = storage_of(value)
    if storage is None or value.numel() == 0:
        return None
    last = sum(
        (size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True)
    )
    start = value.storage_offset() * value.element_size()
    return storage, start, start + (last + 1) * value.element_size()


def _overlap(first: tuple[int, int, int], second: tuple[int, int, int]) -> bool:
    return first[0] == second[0] and first[1] < second[2] and second[1] < first[2]
