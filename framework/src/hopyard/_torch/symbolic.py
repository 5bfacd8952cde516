"""Symbolic numbers: sizes that are expressions."""

from __future__ import annotations

from torch.fx.experimental.symbolic_shapes import statically_known_true as statically_known_true

__all__ = ["statically_known_true"]
