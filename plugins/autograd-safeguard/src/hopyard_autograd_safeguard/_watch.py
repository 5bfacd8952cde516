"""What the safeguard watches, and how it judges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from hopyard.safeguards import set_grad_enabled
from hopyard_hookspecs import Check, Finding, ObservedCall

from ._hazards import GRAD_MODE_LOST


def watched_functions() -> Mapping[Callable[..., Any], Check]:
    """Return the check for the one function that every change of the grad mode ends in.

    `no_grad`, `enable_grad` and `set_grad_enabled`, as functions, decorators and context managers,
    all call it; `inference_mode` does not.
    """
    return {set_grad_enabled: check_grad_mode}


def check_grad_mode(call: ObservedCall) -> Finding | None:
    """Report a change of the grad mode that the graph would not carry.

    A call that sets the mode to what it already is changes nothing. Captures above autograd record
    the change as a node.
    """
    requested = bool(call.args[0])
    if call.pre_dispatch or requested == torch.is_grad_enabled():
        return None
    lost = (
        "gradients that the program stops would flow in the graph"
        if not requested
        else "gradients that the program records would be missing from the graph"
    )
    switch = "enabled" if requested else "disabled"
    return Finding(
        GRAD_MODE_LOST.code,
        f"gradients are {switch} inside the captured program, which its graph cannot show: {lost}",
    )
