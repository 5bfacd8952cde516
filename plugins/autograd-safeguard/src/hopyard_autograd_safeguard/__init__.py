"""Refuses captures that would lose a change of the grad, inference or autocast mode."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ._hazards import AUTOCAST_LOST as AUTOCAST_LOST
from ._hazards import GRAD_MODE_CHANGED as GRAD_MODE_CHANGED
from ._hazards import GRAD_MODE_LOST as GRAD_MODE_LOST
from ._hazards import INFERENCE_MODE_LOST as INFERENCE_MODE_LOST

if TYPE_CHECKING:
    from ._alone import AutogradStateSafeguard as AutogradStateSafeguard


def __getattr__(name: str) -> object:
    # It needs torch, which listing plugins must not import.
    if name == "AutogradStateSafeguard":
        return importlib.import_module("._alone", __name__).AutogradStateSafeguard
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
