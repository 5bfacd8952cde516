"""Refuses captures that would lose a change of the grad mode."""

from __future__ import annotations

from ._hazards import GRAD_MODE_LOST as GRAD_MODE_LOST
