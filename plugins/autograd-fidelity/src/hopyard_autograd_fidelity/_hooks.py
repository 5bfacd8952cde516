"""Hooks on gradients, and gradients kept for later."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hopyard.tracing import get_slot
from hopyard_hookspecs import Finding, ObservedCall, Recording, Suspicion, Watch

from ._hazards import GRADIENT_NOT_RETAINED, HOOK_LOST


def watch() -> Watch:
    """Return what to look at during one capture."""
    return Watch(
        functions={
            Tensor.register_hook: check_hook,
            Tensor.register_post_accumulate_grad_hook: check_hook,
            Tensor.retain_grad: check_retained,
        }
    )


def check_hook(call: ObservedCall) -> Suspicion | None:
    """Suspect a hook that is still there in the end, on a gradient that flows in the graph."""
    tensor: Tensor = call.args[0]
    node = get_slot(tensor, default=None)
    if node is None:
        return None
    finding = Finding(
        HOOK_LOST.code,
        f"a hook is registered on the gradient of {node.name}, and would not run when gradients "
        "flow through the graph",
    )

    def confirm(recording: Recording) -> Finding | None:
        lost = _hooks(tensor) and recording.gradient_flow.carries(node)
        return finding if lost else None

    return Suspicion(finding, confirm)


def check_retained(call: ObservedCall) -> Suspicion | None:
    """Suspect a gradient kept for somebody who gets the tensor."""
    tensor: Tensor = call.args[0]
    if tensor.is_leaf:
        return None
    finding = Finding(
        GRADIENT_NOT_RETAINED.code,
        "the gradient of a result is retained, and the result of the graph would have none",
    )

    def confirm(recording: Recording) -> Finding | None:
        returned = recording.result or ()
        return finding if any(each is tensor for each in returned) else None

    return Suspicion(finding, confirm)


def _hooks(tensor: Any) -> bool:
    return bool(tensor._backward_hooks or tensor._post_accumulate_grad_hooks)
