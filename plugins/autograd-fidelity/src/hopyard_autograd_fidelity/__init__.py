"""Finds gradients that a graph would not reproduce."""

from __future__ import annotations

from ._hazards import BACKWARD_LOST as BACKWARD_LOST
from ._hazards import DETACHMENT_LOST as DETACHMENT_LOST
from ._hazards import GRADIENT_NOT_RETAINED as GRADIENT_NOT_RETAINED
from ._hazards import HOOK_LOST as HOOK_LOST
