"""The hazards that the safeguard reports."""

from __future__ import annotations

from hopyard_hookspecs import Hazard

GRAD_MODE_LOST = Hazard(
    code="HY101",
    title="grad mode changed while tracing",
    remedy="capture the whole program under that grad mode (with torch.no_grad(): ...), detach the "
    "values concerned, or move the block out of the captured function",
)
"""A block under `no_grad` or `enable_grad` leaves no trace below autograd."""
