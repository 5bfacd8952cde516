"""How higher-order operators find a capture above autograd.

There torch looks for the exact type of the mode in the operator's table, where below autograd it
would hand any operator to a mode that asks for them.
"""

from __future__ import annotations

import functools
from typing import Any

from ..._torch.dispatch import (
    HigherOrderOperator,
    TorchDispatchMode,
    higher_order_operators,
    keep_from_dynamo,
)


def admit_all(kind: type[TorchDispatchMode]) -> None:
    """Let all operators that exist so far find modes of this type."""
    for operator in list(higher_order_operators.values()):
        admit(operator, kind)


def admit(operator: HigherOrderOperator, kind: type[TorchDispatchMode]) -> None:
    """Let an operator find modes of this type. It goes the way that it goes below autograd."""
    if kind not in operator.python_key_table:
        operator.python_key_table[kind] = functools.partial(_dispatch, operator)


def _dispatch(
    operator: HigherOrderOperator, mode: TorchDispatchMode, /, *args: Any, **kwargs: Any
) -> Any:
    return mode.__torch_dispatch__(operator, (), args, kwargs)


# torch's control flow compiles itself when it is called, and would compile this way to the capture.
keep_from_dynamo(_dispatch)
