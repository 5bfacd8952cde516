"""Captures above autograd: the modes of the pre-dispatch key, and the functions kept as nodes."""

from __future__ import annotations

from typing import Any as _Any

from torch import _ops
from torch._C import _DisableFuncTorch as disable_transforms
from torch._C import _dispatch_tls_is_dispatch_key_included as is_dispatch_key_included
from torch._C import _EnablePythonDispatcher as enable_python_dispatcher
from torch._functorch import predispatch as _transforms
from torch._ops import _ModeStackStateForPreDispatch as PreDispatchModes
from torch.amp.autocast_mode import _enter_autocast as enter_autocast
from torch.amp.autocast_mode import _exit_autocast as exit_autocast
from torch.amp.autocast_mode import _UnmanagedAutocast as UnmanagedAutocast
from torch.autograd import forward_ad as _forward_ad
from torch.fx.experimental.proxy_tensor import (
    PreDispatchTorchFunctionMode as PreDispatchTorchFunctionMode,
)
from torch.fx.experimental.proxy_tensor import (
    _temp_remove_pre_dispatch_torch_function_mode as hide_state_recorder,
)

FORWARD_AD_FUNCTIONS: frozenset[_Any] = frozenset(
    (
        _transforms._make_dual,
        _transforms._unpack_dual,
        _transforms._jvp_increment_nesting,
        _transforms._jvp_decrement_nesting,
        _transforms._unwrap_for_grad,
        _transforms._enter_dual_level,
        _transforms._exit_dual_level,
    )
)
"""What `torch.func.jvp` and dual numbers call while a program is exported."""

TRANSFORM_FUNCTIONS: frozenset[_Any] = FORWARD_AD_FUNCTIONS | frozenset(
    (
        _transforms._add_batch_dim,
        _transforms._remove_batch_dim,
        _transforms._vmap_increment_nesting,
        _transforms._vmap_decrement_nesting,
        _transforms.lazy_load_decompositions,
    )
)
"""What torch's function transforms call while a program is exported."""


def pre_dispatch_modes() -> _Any:
    """Return where torch keeps the modes of the pre-dispatch key, for all threads."""
    return _ops._mode_stack_state_for_pre_dispatch


def set_pre_dispatch_modes(modes: _Any) -> None:
    """Set where torch keeps the modes of the pre-dispatch key."""
    _ops._mode_stack_state_for_pre_dispatch = modes


def is_dual_level_entered() -> bool:
    """Say whether tensors may carry tangents of forward-mode differentiation."""
    return _forward_ad._current_level >= 0


__all__ = [
    "FORWARD_AD_FUNCTIONS",
    "TRANSFORM_FUNCTIONS",
    "PreDispatchModes",
    "PreDispatchTorchFunctionMode",
    "UnmanagedAutocast",
    "disable_transforms",
    "enable_python_dispatcher",
    "enter_autocast",
    "exit_autocast",
    "hide_state_recorder",
    "is_dispatch_key_included",
    "is_dual_level_entered",
    "pre_dispatch_modes",
    "set_pre_dispatch_modes",
]
