"""The higher-order operator that stands for a strict region in graphs."""

from __future__ import annotations

from hopyard_hookspecs import Hop

REGION = Hop(
    "strict_mode__region",
    summary="A region that a strict capture has seen in full.",
)
"""`(body, *operands)`: what the body returns. Tracers keep it as one node."""
