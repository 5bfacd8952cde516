"""The hazards that the safeguard reports."""

from __future__ import annotations

from hopyard_hookspecs import Hazard, Severity

GRAD_MODE_LOST = Hazard(
    code="HY101",
    title="the grad mode changes while tracing, and gradients with it",
    remedy="detach the values concerned instead (x.detach()), or capture with pre_dispatch=True, "
    "which keeps the block, or capture under torch.no_grad() if nobody asks for gradients",
    page="docs/reference/hazards/HY101.md",
)
"""A block under `no_grad` or `enable_grad` leaves no trace below autograd."""

GRAD_MODE_CHANGED = Hazard(
    code="HY102",
    title="the grad mode changes while tracing, and no gradient with it",
    remedy="nothing needs to be done",
    severity=Severity.NOTE,
    page="docs/reference/hazards/HY102.md",
)
"""Such a block leaves no trace, and nothing that has a gradient passes through it."""

INFERENCE_MODE_LOST = Hazard(
    code="HY103",
    title="the inference mode changes while tracing, and gradients with it",
    remedy="detach the values concerned instead (x.detach()), or capture the whole program under "
    "torch.inference_mode(), or move the block out of what is captured",
    page="docs/reference/hazards/HY103.md",
)
"""A block under `inference_mode` leaves no trace, in captures above autograd either."""

AUTOCAST_LOST = Hazard(
    code="HY104",
    title="autocast is switched off while tracing, inside of autocast",
    remedy="capture outside of autocast, with the autocast block inside the program, or cast the "
    "operands where the program leaves autocast, or capture with pre_dispatch=True",
    page="docs/reference/hazards/HY104.md",
)
"""Run under autocast again, the graph casts what the program computes without."""
