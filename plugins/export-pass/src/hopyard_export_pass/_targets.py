"""Which callback a call is for."""

from __future__ import annotations

import operator
from enum import Enum, auto
from typing import Any, Final

import torch

from hopyard.operators import HigherOrderOperator, OpOverload, OpOverloadPacket

from ._regions import COND, MAP, SCAN, WHILE_LOOP

_NUMBER_MODULES: Final = ("_operator", "builtins", "math")


class Callback(Enum):
    """The callbacks for calls."""

    OPERATOR = auto()
    GETITEM = auto()
    SYM = auto()
    COND = auto()
    MAP = auto()
    WHILE_LOOP = auto()
    SCAN = auto()
    DELEGATE = auto()
    HOP = auto()


_BY_TARGET: Final = {
    operator.getitem: Callback.GETITEM,
    COND: Callback.COND,
    MAP: Callback.MAP,
    WHILE_LOOP: Callback.WHILE_LOOP,
    SCAN: Callback.SCAN,
}


def callback_for(target: Any) -> Callback | None:
    """Return the callback for calls of `target`; None if a graph of operators has no such calls."""
    if target in _BY_TARGET:
        return _BY_TARGET[target]
    if isinstance(target, (OpOverload, OpOverloadPacket)):
        return Callback.OPERATOR
    if isinstance(target, HigherOrderOperator):
        is_delegate = target.name().endswith("call_delegate")
        return Callback.DELEGATE if is_delegate else Callback.HOP
    if _is_function_of_numbers(target):
        return Callback.SYM
    # Operators of dialects, such as ExecuTorch's edge operators, have a schema of their own.
    return Callback.OPERATOR if callable(target) and hasattr(target, "_schema") else None


def _is_function_of_numbers(target: Any) -> bool:
    if getattr(target, "__module__", None) in _NUMBER_MODULES:
        return True
    name = getattr(target, "__name__", "")
    return name.startswith("sym_") and getattr(torch, name, None) is target
