"""torch's formulas for floating-point operations."""

from __future__ import annotations

from torch.utils.flop_counter import flop_registry as flop_formulas
from torch.utils.flop_counter import sdpa_backward_flop_count as attention_backward_flops
from torch.utils.flop_counter import sdpa_flop_count as attention_flops

__all__ = ["attention_backward_flops", "attention_flops", "flop_formulas"]
