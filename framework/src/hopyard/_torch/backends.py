"""Libraries that kernels may use: which are in use is the process's, not a thread's."""

from __future__ import annotations

from torch import _C

LIBRARIES = (
    (_C._get_mkldnn_enabled, _C._set_mkldnn_enabled),
    (_C._get_nnpack_enabled, _C._set_nnpack_enabled),
    (_C._get_cudnn_enabled, _C._set_cudnn_enabled),
)
"""What says whether a library may be used, and what decides it."""

__all__ = ["LIBRARIES"]
