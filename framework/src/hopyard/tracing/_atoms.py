"""What a call is given besides tensors and symbolic numbers, and a graph writes down as it is."""

from __future__ import annotations

from typing import Final

import torch

ATOMS: Final = frozenset(
    (
        bool,
        complex,
        float,
        int,
        str,
        torch.device,
        torch.dtype,
        torch.layout,
        torch.memory_format,
        type(None),
    )
)
"""Types whose values are as good as others that equal them."""
