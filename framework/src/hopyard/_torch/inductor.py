"""Settings of Inductor that a trace must know of."""

from __future__ import annotations

import os as _os
import sys as _sys


def emulates_precision_casts() -> bool:
    """Return whether Inductor is to round as eager kernels do after each low-precision operator."""
    # Importing the settings imports Inductor, which takes a second; while nobody has, what they
    # would be is in the environment.
    config = _sys.modules.get("torch._inductor.config")
    if config is None:
        return _os.environ.get("TORCHINDUCTOR_EMULATE_PRECISION_CASTS", "0") == "1"
    return bool(config.emulate_precision_casts)


__all__ = ["emulates_precision_casts"]
