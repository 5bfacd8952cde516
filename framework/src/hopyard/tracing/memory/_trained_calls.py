"""Operators that a trace above autograd has seen before.

There an operator does more than its operands' metadata tell: autograd notes it, a view remembers
its base, a write counts, a transform wraps the result. What does none of that is remembered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import is_grad_enabled

from ..._torch.dispatch import OpOverload, current_transform
from ..._torch.predispatch import is_dual_level_entered
from ._calls import Call, FakeCalls
from ._recipes import Fresh, Nothing, Recipe, Several
from ._symbolic_outputs import SymbolicOutput

_BY_SETTINGS: Final = frozenset((torch.ops.aten.scaled_dot_product_attention.default,))
"""Composite operators that choose among implementations by settings which the key leaves out."""


class CallsAboveAutograd(FakeCalls):
    """Recipes of one trace for calls that only compute new tensors."""

    def read(
        self, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any] | None
    ) -> Call | None:
        """Return the call's key and lowered arguments, or None if it must take the long way."""
        if func in _BY_SETTINGS or func._schema.is_mutable:
            return None
        if current_transform() is not None or is_dual_level_entered():
            return None
        call = super().read(func, args, kwargs)
        if call is None or not is_grad_enabled():
            return call
        trained = any(operand.requires_grad for operand in call.operands)
        return None if trained else call

    def is_repeatable(self, recipe: Recipe) -> bool:
        """Say whether a recipe makes nothing but new tensors."""
        if isinstance(recipe, Several):
            return all(self.is_repeatable(each) for each in recipe.recipes)
        if isinstance(recipe, SymbolicOutput):
            return recipe.source is None
        return isinstance(recipe, (Fresh, Nothing))
