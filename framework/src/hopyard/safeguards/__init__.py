"""The kernel's side of safeguards: one observer for all, and the policies that findings meet.

A safeguard is a plugin's declaration of what to watch; see `hopyard_hookspecs.safeguards`. What it
needs to judge is here: where gradients go in a recorded graph (:class:`GradientFlow`), and changes
that torch tells no function mode of, watched like functions (:func:`inference_mode_changed`,
:func:`autocast_changed`, :func:`function_applied`). :func:`active_tracing` returns the mode of the
tracer that records on this thread, torch's or ours, or None; its `pre_dispatch` says whether it
records above autograd.
"""

from __future__ import annotations

from .._torch.dispatch import set_grad_enabled as set_grad_enabled
from ._ambient import active_tracing as active_tracing
from ._ambient import autocast_changed as autocast_changed
from ._ambient import function_applied as function_applied
from ._ambient import inference_mode_changed as inference_mode_changed
from ._gradient_flow import GradientFlow as GradientFlow
from ._observer import Observer as Observer
from ._recording import Recording as Recording
from ._watch_list import WatchList as WatchList
