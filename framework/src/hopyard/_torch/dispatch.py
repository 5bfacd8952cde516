"""The dispatcher: modes, their stack, and operators."""

from __future__ import annotations

from contextlib import contextmanager as _contextmanager
from typing import Any as _Any

from torch import _C
from torch import _debug_has_internal_overlap as internal_overlap
from torch._C import DispatchKey as DispatchKey
from torch._C import _AutoDispatchBelowAutograd as below_autograd
from torch._C import _DisableAutocast as without_autocast
from torch._C import _DisableTorchDispatch as disable_torch_dispatch
from torch._C import _dispatch_tls_is_dispatch_key_excluded as is_dispatch_key_excluded
from torch._C import _dispatch_tls_local_exclude_set as excluded_dispatch_keys
from torch._C import _dispatch_tls_local_include_set as included_dispatch_keys
from torch._C import _get_cudnn_enabled as is_cudnn_enabled
from torch._C import _get_dispatch_mode as _mode_in
from torch._C import _get_mkldnn_enabled as is_mkldnn_enabled
from torch._C import _is_any_autocast_enabled as is_any_autocast_enabled
from torch._C import _len_torch_dispatch_stack as dispatch_mode_count
from torch._C import _PreserveDispatchKeyGuard as preserve_dispatch_keys
from torch._C import _set_meta_in_tls_dispatch_include as use_meta_kernels
from torch._C._dynamo import eval_frame as _eval_frame
from torch._C._functorch import TransformType as TransformType
from torch._C._functorch import get_unwrapped as untransformed
from torch._C._functorch import is_functorch_wrapped_tensor as is_transformed
from torch._C._functorch import peek_interpreter_stack as current_transform
from torch._higher_order_ops.schema import HopSchemaGenerator as HopSchemaGenerator
from torch._library.utils import get_layout_constraint_tag as layout_constraint
from torch._ops import HigherOrderOperator as HigherOrderOperator
from torch._ops import OpOverload as OpOverload
from torch._ops import OpOverloadPacket as OpOverloadPacket
from torch._ops import _get_dispatch_mode_pre_dispatch as _mode_above_autograd
from torch._ops import _higher_order_ops as higher_order_operators
from torch._ops import key_extractor as dispatch_keys_of
from torch.library import _impls as registered_kernels
from torch.overrides import _get_current_function_mode_stack as function_mode_stack
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode
from torch.utils._python_dispatch import _disable_infra_mode
from torch.utils._python_dispatch import _get_current_dispatch_mode as current_dispatch_mode
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack as dispatch_mode_stack
from torch.utils._python_dispatch import _push_mode as push_mode
from torch.utils._python_dispatch import _unset_infra_mode as unset_infra_mode
from torch.utils._python_dispatch import (
    autograd_would_have_decomposed as autograd_would_have_decomposed,
)

PROXY_SLOT = _C._TorchDispatchModeKey.PROXY
"""The slot of the mode stack that holds the active tracer's mode."""


def infra_mode(slot: _Any) -> _Any:
    """Return the mode in a slot of the mode stack, above autograd or below, or None."""
    return _mode_above_autograd(slot) or _mode_in(slot)


without_infra_mode = _contextmanager(_disable_infra_mode)
"""Takes the mode out of a slot for a while, and gives it."""

disable_torch_function = _C.DisableTorchFunction
"""Keeps function modes from being told of calls, and torch from looking for overrides at each."""

set_grad_enabled = _C._set_grad_enabled
"""What every way of changing the grad mode ends in."""


def keep_from_dynamo(function: _Any) -> None:
    """Let Dynamo run a function as it is, and all that it calls; a call costs nothing more."""
    skip = _eval_frame._FrameAction.SKIP
    strategy = _eval_frame._FrameExecStrategy(skip, skip)
    _eval_frame.set_code_exec_strategy(function.__code__, strategy)


__all__ = [
    "PROXY_SLOT",
    "DispatchKey",
    "HigherOrderOperator",
    "HopSchemaGenerator",
    "OpOverload",
    "OpOverloadPacket",
    "TorchDispatchMode",
    "TransformType",
    "autograd_would_have_decomposed",
    "below_autograd",
    "current_dispatch_mode",
    "current_transform",
    "disable_torch_dispatch",
    "disable_torch_function",
    "dispatch_keys_of",
    "dispatch_mode_count",
    "dispatch_mode_stack",
    "excluded_dispatch_keys",
    "function_mode_stack",
    "higher_order_operators",
    "included_dispatch_keys",
    "infra_mode",
    "internal_overlap",
    "is_any_autocast_enabled",
    "is_cudnn_enabled",
    "is_dispatch_key_excluded",
    "is_mkldnn_enabled",
    "is_transformed",
    "keep_from_dynamo",
    "layout_constraint",
    "preserve_dispatch_keys",
    "push_mode",
    "registered_kernels",
    "set_grad_enabled",
    "unset_infra_mode",
    "untransformed",
    "use_meta_kernels",
    "without_autocast",
    "without_infra_mode",
]
