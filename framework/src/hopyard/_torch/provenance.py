"""What torch keeps for the metadata of nodes: what it is copying, and from where."""

from __future__ import annotations

import sys as _sys
from collections.abc import Generator as _Generator
from contextlib import contextmanager as _contextmanager
from typing import Any as _Any

from torch._C import _len_torch_function_stack as function_mode_count
from torch._C._autograd import _get_sequence_nr as next_autograd_number
from torch.fx import proxy as _proxy
from torch.fx import traceback as _traceback
from torch.fx.experimental import proxy_tensor as _proxy_tensor
from torch.fx.experimental.proxy_tensor import (
    TorchFunctionMetadataMode as TorchFunctionMetadataMode,
)
from torch.fx.experimental.symbolic_shapes import uninteresting_files as uninteresting_files
from torch.overrides import _pop_mode as pop_function_mode
from torch.overrides import _push_mode as push_function_mode

COPIED_KEYS = tuple(_proxy._COPY_META_FIELDS)
"""The entries of a node's metadata that a node made from it takes over as they are."""

original_operator = _proxy_tensor.ORIGINAL_ATEN
"""The operator that nodes made now come from, for the running context."""

stack_trace_anchors = _proxy._STACK_TRACE_ANCHORS
"""Functions, by file and name, whose frames stack traces keep beside those of `forward`."""


def are_numbers_kept() -> bool:
    """Say whether nodes take over the number of the autograd node as well."""
    return bool(_traceback._is_preserving_node_seq_nr())


def are_stack_traces_demanded() -> bool:
    """Say whether the compiler asks for the stack trace of every node."""
    inductor = _sys.modules.get("torch._inductor.config")
    return inductor is not None and inductor.trace.provenance_tracking_level == 1


@_contextmanager
def function_modes_off() -> _Generator[None, None, None]:
    """Take all function modes off for a while."""
    modes = [pop_function_mode() for _ in range(function_mode_count())]
    try:
        yield
    finally:
        for mode in reversed(modes):
            push_function_mode(mode)


def is_compiled(module: _Any) -> bool:
    """Say whether a module is what `torch.compile` made of one."""
    dynamo = _sys.modules.get("torch._dynamo.eval_frame")
    return dynamo is not None and isinstance(module, dynamo.OptimizedModule)


__all__ = [
    "COPIED_KEYS",
    "TorchFunctionMetadataMode",
    "are_numbers_kept",
    "are_stack_traces_demanded",
    "function_mode_count",
    "function_modes_off",
    "is_compiled",
    "next_autograd_number",
    "original_operator",
    "pop_function_mode",
    "push_function_mode",
    "stack_trace_anchors",
    "uninteresting_files",
]
