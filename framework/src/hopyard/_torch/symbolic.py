"""Symbolic numbers: sizes that are expressions."""

from __future__ import annotations

import logging as _logging
from typing import Any as _Any

from torch._logging import _internal as _logs
from torch.fx.experimental import _config as _settings
from torch.fx.experimental import sym_node as _sym_node
from torch.fx.experimental.sym_node import SymNode as SymNode
from torch.fx.experimental.sym_node import wrap_node as wrap_number
from torch.fx.experimental.symbolic_shapes import (
    GuardOnDataDependentSymNode as GuardOnDataDependentSymNode,
)
from torch.fx.experimental.symbolic_shapes import ShapeEnv as ShapeEnv
from torch.fx.experimental.symbolic_shapes import (
    compute_unbacked_bindings as compute_unbacked_bindings,
)
from torch.fx.experimental.symbolic_shapes import free_symbols as free_symbols
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols as free_unbacked_symbols
from torch.fx.experimental.symbolic_shapes import is_accessor_node as is_accessor_node
from torch.fx.experimental.symbolic_shapes import statically_known_true as statically_known_true
from torch.fx.passes.runtime_assert import (
    insert_deferred_runtime_asserts as insert_deferred_runtime_asserts,
)
from torch.utils._config_module import _UNSET_SENTINEL as _UNSET
from torch.utils._sympy.interp import handlers as expression_handlers


def input_source(name: str) -> _Any:
    """Return where a symbol comes from: an input of this name."""
    # Importing Dynamo takes seconds, and only symbols need it.
    from torch._dynamo.source import ConstantSource

    return ConstantSource(name)


def size_source(source: _Any, index: int) -> _Any:
    """Return where the size of a dimension of a tensor from `source` comes from."""
    from torch._dynamo.source import TensorProperty, TensorPropertySource

    return TensorPropertySource(source, TensorProperty.SIZE, index)


_decided_statically: _Any = vars(_settings)["_config"]["backed_size_oblivious"]


def is_decided_statically() -> bool:
    """Say whether questions with a usual answer are decided without looking at example sizes."""
    # Each of those questions asks. torch's own look-up takes five times as long, since it sees to
    # aliases and the environment, which this setting has none of.
    chosen = _decided_statically.user_override.get()
    return bool(_decided_statically.default if chosen is _UNSET else chosen)


def is_arithmetic_logged() -> bool:
    """Say whether each operation on symbolic numbers is written to a log."""
    return _logs.GET_DTRACE_STRUCTURED or _sym_node.sym_node_log.isEnabledFor(_logging.DEBUG)


__all__ = [
    "GuardOnDataDependentSymNode",
    "ShapeEnv",
    "SymNode",
    "compute_unbacked_bindings",
    "expression_handlers",
    "free_symbols",
    "free_unbacked_symbols",
    "input_source",
    "insert_deferred_runtime_asserts",
    "is_accessor_node",
    "is_arithmetic_logged",
    "is_decided_statically",
    "size_source",
    "statically_known_true",
    "wrap_number",
]
