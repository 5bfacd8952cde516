"""Bytes that an operator reads and writes.

Each operator is taken by itself, as if nothing were fused and no cache kept anything: it reads each
element of its operands once and writes each element of its results once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch

from .._torch.dispatch import OpOverload
from .._torch.pytree import tree_leaves
from ._calls import Call
from ._values import Amount, TensorSpec

aten = torch.ops.aten

_GATHERING = frozenset(
    {
        aten.embedding,
        aten.gather,
        aten.index,
        aten._unsafe_index,
        aten.index_select,
        aten.take,
        aten.select_copy,
        aten.slice_copy,
    }
)
"""Operators that read no more of their first tensor than they return."""

_OVERWRITING = frozenset({aten.copy, aten.copy_, aten.fill, aten.fill_, aten.zero, aten.zero_})
"""Operators that do not read their first tensor."""

_UNWRITTEN = frozenset(
    {
        aten.empty,
        aten.empty_like,
        aten.empty_permuted,
        aten.empty_strided,
        aten.new_empty,
        aten.new_empty_strided,
        aten.resize_,
    }
)
"""Operators that return memory as it is."""

_OF_METADATA = re.compile(
    r"new_|.*_like$|(sym_)?(size|stride|numel|storage_offset|dim)$|(sym_)?is_"
)
"""Names of operators that look at the sizes and the type of their first tensor only."""

_RESHAPING = frozenset({aten._unsafe_view, aten.lift_fresh, aten.detach_})
"""Operators that return their operand's memory though their schema does not say so."""


def bytes_of(call: Call) -> tuple[Amount, Amount]:
    """Return how many bytes a call reads and how many it writes.

    Raises:
        ValueError: It takes or returns a tensor that is not dense.
    """
    if not isinstance(call.target, OpOverload):
        return 0, 0
    for leaf in (*tree_leaves((call.args, dict(call.kwargs))), *tree_leaves(call.result)):
        if isinstance(leaf, TensorSpec) and leaf.strides is None:
            raise ValueError("a tensor is not dense")
    packet = call.target.overloadpacket
    read: Amount = 0
    if packet in _RESHAPING or call.target.is_view:
        return 0, 0
    changed, read_only = _operands(call)
    returned = _returned(call)
    overwrites = packet in _OVERWRITING
    if overwrites and not changed:
        read_only = read_only[1:]
    if _OF_METADATA.match(packet.__name__):
        read_only = read_only[1:]
    if packet in _GATHERING and read_only:
        source, *read_only = read_only
        read = sum(result.elements for result in returned) * source.dtype.itemsize
    if not overwrites and packet not in _UNWRITTEN:
        read += _bytes(changed)
    read += _bytes(read_only)
    written = 0 if packet in _UNWRITTEN else _bytes(returned) + _bytes(changed)
    return read, written


def _operands(call: Call) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """Return the tensors that a call changes, and those that it only reads."""
    changed: list[TensorSpec] = []
    read_only: list[TensorSpec] = []
    schema = call.target._schema
    for index, argument in enumerate(schema.arguments):
        given = call.args[index] if index < len(call.args) else call.kwargs.get(argument.name)
        is_written = argument.alias_info is not None and argument.alias_info.is_write
        (changed if is_written else read_only).extend(_tensors(given))
    return changed, read_only


def _returned(call: Call) -> list[TensorSpec]:
    """Return the tensors that a call makes; those that it was given are none of them."""
    returns = call.target._schema.returns
    results = call.result if len(returns) > 1 else (call.result,)
    if not isinstance(results, (tuple, list)):
        return []
    made: list[TensorSpec] = []
    for declared, result in zip(returns, results, strict=False):
        if declared.alias_info is None:
            made.extend(_tensors(result))
    return made


def _tensors(tree: Any) -> Iterator[TensorSpec]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, TensorSpec))


def _bytes(tensors: list[TensorSpec]) -> Amount:
    return sum(tensor.memory for tensor in tensors)
