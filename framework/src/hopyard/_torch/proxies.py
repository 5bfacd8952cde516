"""torch's own tracer: what must be shared with it so that both can trace one program."""

from __future__ import annotations

from typing import Any as _Any

from torch._C import _get_dispatch_mode as _mode_in
from torch._C import _TorchDispatchModeKey
from torch._higher_order_ops.utils import _maybe_run_with_interpreter as run_with_notes
from torch._higher_order_ops.utils import reenter_make_fx as trace_subgraph_with_torch
from torch._higher_order_ops.utils import register_fake as register_fake_rule
from torch._ops import _get_dispatch_mode_pre_dispatch as _mode_above_autograd
from torch.fx import _symbolic_trace
from torch.fx.experimental import proxy_tensor as _proxy_tensor
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode as ProxyTorchDispatchMode
from torch.fx.experimental.proxy_tensor import (
    _is_proxy_tensor_update_tensor_tracker_disabled as are_slots_kept,
)
from torch.fx.experimental.proxy_tensor import (
    _proxy_tensor_disable_update_tensor_tracker as keep_slots,
)
from torch.fx.experimental.proxy_tensor import _ProxyTensor as TrackedTensor
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing as suspend_tracing
from torch.fx.experimental.proxy_tensor import get_proxy_slot as get_proxy_slot
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx
from torch.fx.experimental.proxy_tensor import track_tensor_tree as track_tensor_tree

_PROXY_SLOT = _TorchDispatchModeKey.PROXY


def current_proxy_mode() -> _Any:
    """Return the mode of the active tracer, above autograd or below, or None."""
    # Each operation on sizes asks, and most tracers are below.
    return _mode_in(_PROXY_SLOT) or _mode_above_autograd(_PROXY_SLOT)


def active_tracer() -> _Any:
    """Return what torch's operators trace their bodies with; None outside of captures."""
    return _proxy_tensor._CURRENT_MAKE_FX_TRACER


def set_active_tracer(tracer: _Any) -> None:
    """Set what torch's higher-order operators trace their bodies with, for all threads."""
    _proxy_tensor._CURRENT_MAKE_FX_TRACER = tracer


def tracing_flag() -> _Any:
    """Return what tells compiled functions, by its truth, that a program is being traced."""
    return _symbolic_trace._is_fx_tracing_flag


def set_tracing_flag(flag: _Any) -> None:
    """Set what tells compiled functions that a program is being traced, for all threads."""
    _symbolic_trace._is_fx_tracing_flag = flag


__all__ = [
    "ProxyTorchDispatchMode",
    "TrackedTensor",
    "active_tracer",
    "are_slots_kept",
    "current_proxy_mode",
    "get_proxy_slot",
    "keep_slots",
    "register_fake_rule",
    "run_with_notes",
    "set_active_tracer",
    "set_tracing_flag",
    "suspend_tracing",
    "torch_make_fx",
    "trace_subgraph_with_torch",
    "tracing_flag",
    "track_tensor_tree",
]
