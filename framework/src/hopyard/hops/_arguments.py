"""Which operands and configuration a graph holds."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import SymBool, SymFloat, SymInt, Tensor
from torch.fx import GraphModule

from .._torch.dispatch import HigherOrderOperator, OpOverload
from .._torch.pytree import TreeSpec, tree_leaves
from ..tracing import ATOMS, is_object

if TYPE_CHECKING:
    from ._operator import Operator

_HELD = (
    *(Tensor, SymInt, SymFloat, SymBool, torch.nn.Module),
    *(slice, range, enum.Enum, OpOverload, HigherOrderOperator, TreeSpec),
)


def refuse_what_no_graph_holds(
    operator: Operator, operands: Sequence[Any], config: Mapping[str, Any]
) -> None:
    """Refuse operands and configuration that cannot be written into a node.

    Raises:
        UnsupportedError: There are some, or a tensor is among the configuration, where neither
            gradients nor transforms look for it.
    """
    for index, operand in enumerate(operands):
        for leaf in () if isinstance(operand, Tensor) else tree_leaves(operand):
            if not _is_held(leaf):
                raise operator.refusal(
                    f"is given a {type(leaf).__qualname__} as operand {index}, which a graph "
                    "cannot hold",
                    "derive its class from torch.nn.Module, so that graphs have it as an attribute",
                )
            if isinstance(leaf, torch.nn.Module) and torch.compiler.is_exporting():
                _refuse_foreign_module(operator, index, leaf)
    for name, value in config.items():
        for leaf in tree_leaves(value):
            if isinstance(leaf, Tensor):
                raise operator.refusal(
                    f"is given a tensor as the configuration {name!r}", "pass it as an operand"
                )
            if not _is_held(leaf):
                raise operator.refusal(
                    f"is given a {type(leaf).__qualname__} as the configuration {name!r}, which a "
                    "graph cannot hold",
                    "give it as numbers, text, data types, devices, or lists and dictionaries of "
                    "them",
                )


def _is_held(value: Any) -> bool:
    if type(value) in ATOMS or isinstance(value, _HELD) or is_object(value):
        return True
    return hasattr(value, "__fx_create_arg__") or dataclasses.is_dataclass(value)


def _refuse_foreign_module(operator: Operator, index: int, module: torch.nn.Module) -> None:
    """Refuse a module that torch's checks of an exported program would not let pass."""
    # torch knows this one by its name, since it cannot import it.
    if isinstance(module, GraphModule) or type(module).__name__ == "LoweredBackendModule":
        return
    raise operator.refusal(
        f"is given a {type(module).__qualname__} as operand {index}, which a program of "
        "torch.export cannot hold",
        "export the program without the call and put the call into what was exported",
    )
