"""Gradients that a backend computes itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ._lowered_module import LoweredModule


def run_with_gradients(module: LoweredModule, operands: Sequence[Any]) -> tuple[Any, ...]:
    """Run a partition whose backend has a backward, so that autograd calls it."""
    outputs: tuple[Any, ...] = _BackendFunction.apply(module, *operands)
    return outputs


class _BackendFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, module: LoweredModule, *operands: Any) -> tuple[Any, ...]:
        ctx.set_materialize_grads(False)
        ctx.module = module
        ctx.tensors = [isinstance(each, Tensor) for each in operands]
        ctx.others = [None if isinstance(each, Tensor) else each for each in operands]
        ctx.save_for_backward(*(each for each in operands if isinstance(each, Tensor)))
        given = {id(each) for each in operands}
        # What is returned as it was given would be taken for a view of the operand.
        outputs = tuple(
            each.clone() if isinstance(each, Tensor) and id(each) in given else each
            for each in module.run(*operands)
        )
        ctx.mark_non_differentiable(
            *(each for each in outputs if isinstance(each, Tensor) and not _is_smooth(each))
        )
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        saved = iter(ctx.saved_tensors)
        wanted = ctx.needs_input_grad[1:]
        operands = [
            next(saved) if is_tensor else other
            for is_tensor, other in zip(ctx.tensors, ctx.others, strict=True)
        ]
        if torch.is_grad_enabled():
            found = _of_reference(ctx.module, operands, gradients, wanted)
        else:
            found = ctx.module.backward(operands, gradients)
        return None, *(each if want else None for each, want in zip(found, wanted, strict=True))


def _of_reference(
    module: LoweredModule,
    operands: Sequence[Any],
    gradients: Sequence[Any],
    wanted: Sequence[bool],
) -> list[Any]:
    """Return gradients that can be differentiated again: those of the reference graph."""
    outputs = module.original_module(*operands)
    pairs = [
        (output, gradient)
        for output, gradient in zip(outputs, gradients, strict=True)
        if gradient is not None and isinstance(output, Tensor) and output.requires_grad
    ]
    inputs = [operand for operand, want in zip(operands, wanted, strict=True) if want]
    if not pairs:
        return [None] * len(operands)
    found = iter(
        torch.autograd.grad(
            [output for output, _ in pairs],
            inputs,
            [gradient for _, gradient in pairs],
            create_graph=True,
            allow_unused=True,
        )
    )
    return [next(found) if want else None for want in wanted]


def _is_smooth(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
