"""What a node's metadata says about the value it computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from .._torch.fake import FakeTensor, FakeTensorMode, fast_detach
from .._torch.graphs import extract_tensor_metadata
from .._torch.proxies import suspend_tracing


class ValueRecorder:
    """Writes `meta["val"]` and `meta["tensor_meta"]`.

    `val` is a fake tensor without autograd history: a detached alias of a fake value, or a new fake tensor
    of a real value's size and stride. One fake mode serves a whole trace.
    """

    def __init__(self, fake_mode: FakeTensorMode | None) -> None:
        self._fake_mode = fake_mode

    def annotate(self, node: Node, value: Any) -> None:
        """Describe `value` as what `node` computes."""
        node.meta["val"] = self.snapshot(value)
        if isinstance(value, Tensor) and not value.is_sparse:
            node.meta["tensor_meta"] = extract_tensor_metadata(value)

    def snapshot(self, value: Any) -> Any:
        """Return a description of `value` that later in-place changes do not reach."""
        if isinstance(value, FakeTensor):
            return fast_detach(value.fake_mode, value)
        if isinstance(value, Tensor):
            return self._describe(value)
        if isinstance(value, (list, tuple)):
            return type(value)([self.snapshot(item) for item in value])
        if isinstance(value, dict):
            return {key: self.snapshot(item) for key, item in value.items()}
        return value

    def _describe(self, value: Tensor) -> Tensor | None:
        if value.is_sparse:
            return None
        if self._fake_mode is None:
            self._fake_mode = FakeTensorMode(allow_fallback_kernels=True)
        # Neither this capture nor one around it may record how its inputs are described.
        with suspend_tracing(), self._fake_mode:
            return torch.empty_strided(
                value.shape, value.stride(), dtype=value.dtype, device=value.device
            )
