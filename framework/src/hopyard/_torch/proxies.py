"""torch's own tracer: what must be shared with it so that both can trace one program."""

from __future__ import annotations

from typing import Any as _Any

from torch._higher_order_ops.utils import reenter_make_fx as trace_subgraph_with_torch
from torch._higher_order_ops.utils import register_fake as register_fake_rule
from torch.fx.experimental import proxy_tensor as _proxy_tensor
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode as ProxyTorchDispatchMode
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing as suspend_tracing
from torch.fx.experimental.proxy_tensor import get_proxy_mode as current_proxy_mode
from torch.fx.experimental.proxy_tensor import get_proxy_slot as get_proxy_slot
from torch.fx.experimental.proxy_tensor import track_tensor_tree as track_tensor_tree


def active_tracer() -> _Any:
    """Return what torch's operators trace their bodies with; None outside of captures."""
    return _proxy_tensor._CURRENT_MAKE_FX_TRACER


def set_active_tracer(tracer: _Any) -> None:
    """Set what torch's higher-order operators trace their bodies with, for all threads."""
    _proxy_tensor._CURRENT_MAKE_FX_TRACER = tracer


__all__ = [
    "ProxyTorchDispatchMode",
    "active_tracer",
    "current_proxy_mode",
    "get_proxy_slot",
    "register_fake_rule",
    "set_active_tracer",
    "suspend_tracing",
    "trace_subgraph_with_torch",
    "track_tensor_tree",
]
