"""What a node takes over from the node that is being copied.

While a graph is copied by running it, `torch.fx.traceback` holds the metadata of the node that
runs. Copying is on only for a while and for the whole process: `torch.fx.traceback` keeps it in
module variables, which this module reads, and writes `original_aten` to as torch's own tracer does.
"""

from __future__ import annotations

import copy
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch.fx import Node, traceback

from ..._torch.dispatch import HigherOrderOperator, OpOverload
from ..._torch.provenance import (
    COPIED_KEYS,
    are_numbers_kept,
    next_autograd_number,
    original_operator,
)

_OPERATORS = (OpOverload, HigherOrderOperator)


def inherit(node: Node) -> None:
    """Write on a new node what it takes over; call it only while metadata is copied."""
    current = traceback.get_current_meta()
    meta = node.meta
    stack_trace = current.get("stack_trace")
    if stack_trace:
        meta["stack_trace"] = stack_trace
        if traceback.GRADIENT_ACC_SPECIAL_STACK in stack_trace:
            meta["is_gradient_acc"] = True
            meta["autograd_backward"] = True
    for key in COPIED_KEYS:
        if key in current:
            value = current[key]
            # A copy of an operator would not be equal to it.
            meta[key] = value if isinstance(value, _OPERATORS) else copy.copy(value)
    number = _autograd_number(current)
    if number is not None:
        meta["seq_nr"] = number
    replayed = traceback.get_current_replay_node()
    if replayed is not None:
        _take_over_replayed(meta, replayed.meta)
    if current.get("autograd_backward"):
        meta["autograd_backward"] = True


@contextmanager
def operator_noted(func: object) -> Generator[None, None, None]:
    """Let nodes made meanwhile say that they come from `func`, unless an operator around it is
    noted already. Enter it only while metadata is copied.
    """
    if original_operator.get() is not None:
        yield
        return
    token = original_operator.set(func)
    traceback.get_current_meta()["original_aten"] = func
    try:
        yield
    finally:
        original_operator.reset(token)
        traceback.get_current_meta()["original_aten"] = None


def _autograd_number(current: dict[str, Any]) -> int | None:
    """Return what tells which nodes of a forward and of a backward graph belong together."""
    kept = are_numbers_kept()
    replayed = traceback.get_current_replay_node()
    if not kept and replayed is not None and "seq_nr" in replayed.meta:
        number: int | None = replayed.meta["seq_nr"]
    elif current.get("in_grad_fn", 0) > 0:
        number = current["grad_fn_seq_nr"][-1]
    elif kept:
        number = current.get("seq_nr")
    else:
        # Autograd has counted on already when the operator reaches a tracer below it.
        number = next_autograd_number() - 1
    return number


def _take_over_replayed(meta: dict[str, Any], replayed: dict[str, Any]) -> None:
    """Take over what a view has that functionalization makes anew."""
    meta["is_functional_regenerated"] = True
    for key in ("custom", "stack_trace"):
        if key in replayed:
            meta[key] = replayed[key]
