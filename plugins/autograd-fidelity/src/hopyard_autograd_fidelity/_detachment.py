"""Tensors whose part in autograd the program changes in place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from hopyard.tracing import get_slot
from hopyard_hookspecs import Finding, GradientFlow, ObservedCall, Recording, Suspicion, Watch

from ._hazards import DETACHMENT_LOST


def watch() -> Watch:
    """Return what to look at during one capture."""
    return Watch(
        functions={
            Tensor.detach_: check_detach,
            Tensor.requires_grad_: check_requires_grad,
            Tensor.requires_grad.__set__: check_requires_grad,  # type: ignore[attr-defined]
            Tensor.data.__set__: check_data,  # type: ignore[attr-defined]
        },
        operators={torch.ops.aten.detach.default: check_write_through},
    )


def check_detach(call: ObservedCall) -> Suspicion | None:
    """Suspect `x.detach_()` on what has a gradient in the graph and is used afterwards."""
    return _suspect(call, "x.detach_() leaves no trace, and gradients that it stops would flow")


def check_requires_grad(call: ObservedCall) -> Suspicion | None:
    """Suspect a change of `requires_grad`; setting it to what it is changes nothing."""
    tensor: Tensor = call.args[0]
    requested = bool(call.args[1] if len(call.args) > 1 else call.kwargs.get("requires_grad", True))
    if tensor.requires_grad == requested:
        return None
    if not requested:
        return _suspect(
            call, "requires_grad is taken from a tensor, and its gradients would flow in the graph"
        )
    finding = Finding(
        DETACHMENT_LOST.code,
        "a result is made to require grad, and the result of the graph would not",
    )
    known = get_slot(tensor, default=None)

    def confirm(recording: Recording) -> Finding | None:
        if known is None or recording.gradient_flow.carries(known):
            return None
        returned = recording.result or ()
        return finding if any(each is tensor for each in returned) else None

    return Suspicion(finding, confirm)


def check_data(call: ObservedCall) -> Suspicion | None:
    """Suspect `x.data = y` if `x` is used afterwards: the graph would use what it was before."""
    node = get_slot(call.args[0], default=None)
    if node is None:
        return None
    finding = Finding(
        DETACHMENT_LOST.code,
        f"{node.name} is given other data, which leaves no trace: the graph would use what it "
        "was before",
        remedy="use another variable for the new data, or x.copy_(y) under a capture that needs no "
        "gradient of x",
    )

    def confirm(recording: Recording) -> Finding | None:
        return finding if _uses(node, call, recording) else None

    return Suspicion(finding, confirm)


def check_write_through(node: Node, recording: Recording) -> Finding | None:
    """Find in-place operators on `x.data` or `x.detach()` where `x` has a gradient afterwards.

    In the graph of a program they become a new value of `x`, with the gradient of that value.
    """
    flow = recording.gradient_flow
    written = [each for each in flow.writes(node) if _is_within(flow.viewed(each), node, flow)]
    if not written:
        return None
    base = flow.base(node)
    later = _after(written[0], recording)
    if not any(
        flow.carries(each) and base in map(flow.base, flow.operands(each)) for each in later
    ):
        return None
    return Finding(
        DETACHMENT_LOST.code,
        f"{base.name} is written to through {node.name}, which hides the write from autograd: in "
        "the graph its gradient would be that of the new value",
        remedy="write to the tensor itself, or compute a new one",
    )


def _suspect(call: ObservedCall, what: str) -> Suspicion | None:
    node = get_slot(call.args[0], default=None)
    if node is None:
        return None
    finding = Finding(DETACHMENT_LOST.code, f"{what}, through {node.name}")

    def confirm(recording: Recording) -> Finding | None:
        lost = recording.gradient_flow.carries(node) and _uses(node, call, recording)
        return finding if lost else None

    return Suspicion(finding, confirm)


def _uses(node: Node, call: ObservedCall, recording: Recording) -> list[Node]:
    """Return what uses `node` after a call, to some effect; the output is a use."""
    later: list[Any] = [*recording.between(call.moment), recording.graph.output_node()]
    return [each for each in later if node in each.all_input_nodes and _matters(each)]


def _matters(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return bool(node.users) or node.op == "output" or (schema is not None and schema.is_mutable)


def _after(node: Node, recording: Recording) -> list[Node]:
    nodes = list(recording.graph.nodes)
    return nodes[nodes.index(node) + 1 :]


def _is_within(value: Node | None, detached: Node, flow: GradientFlow) -> bool:
    """Say whether `value` is `detached` or a view of it."""
    while value is not None and value is not detached:
        value = flow.viewed(value)
    return value is detached
