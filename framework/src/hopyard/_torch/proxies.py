"""torch's own tracer: what must be shared with it so that both can trace one program."""

from __future__ import annotations

from torch._higher_order_ops.utils import reenter_make_fx as trace_subgraph_with_torch
from torch._higher_order_ops.utils import register_fake as register_fake_rule
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode as ProxyTorchDispatchMode
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing as suspend_tracing
from torch.fx.experimental.proxy_tensor import get_proxy_mode as current_proxy_mode
from torch.fx.experimental.proxy_tensor import get_proxy_slot as get_proxy_slot
from torch.fx.experimental.proxy_tensor import track_tensor_tree as track_tensor_tree

__all__ = [
    "ProxyTorchDispatchMode",
    "current_proxy_mode",
    "get_proxy_slot",
    "register_fake_rule",
    "suspend_tracing",
    "trace_subgraph_with_torch",
    "track_tensor_tree",
]
