"""What a plugin makes its modes of."""

from __future__ import annotations

from ._torch.dispatch import TorchDispatchMode as TorchDispatchMode
