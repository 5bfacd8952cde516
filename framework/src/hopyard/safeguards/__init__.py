"""The kernel's side of safeguards: one observer for all, and the policies that findings meet.

A safeguard is a plugin's declaration of what to watch; see `hopyard_hookspecs.safeguards`.
"""

from __future__ import annotations

from .._torch.dispatch import set_grad_enabled as set_grad_enabled
from ._observer import Observer as Observer
from ._observer import WatchList as WatchList
