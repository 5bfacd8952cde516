"""What a caller sees of a call: results, gradients and state."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from .._torch.pytree import tree_leaves, tree_map_only

_ROUNDING = 1e-30
"""Far below what single precision resolves in any model."""


def observed_effects(
    function: Callable[..., Any], args: Sequence[Any], state: Module | None = None
) -> list[Any]:
    """Return what a caller can tell of `function(*args)`: two functions that return the same have
    the same effects.

    These are the leaves of the result, which of them require grad, the gradients of a weighted sum
    of their elements with respect to the arguments and the state, gradients that results retain,
    and the arguments and buffers afterwards. The arguments are copied before; random numbers start
    at the same seed.

    Args:
        function: What is called.
        args: Its arguments. Floating-point tensors that require grad are differentiated.
        state: The module whose parameters and buffers count.
    """
    args = _fresh(args)
    parameters = [] if state is None else list(state.parameters())
    for parameter in parameters:
        parameter.grad = None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        result = [each for each in tree_leaves(function(*args)) if isinstance(each, Tensor)]
    differentiable = [
        each for each in result if each.requires_grad and each.dtype.is_floating_point
    ]
    leaves = [each for each in tree_leaves(args) if isinstance(each, Tensor) and each.is_leaf]
    sources = [each for each in (*leaves, *parameters) if each.requires_grad]
    if differentiable and sources:
        torch.autograd.backward(differentiable, [_weights(each) for each in differentiable])
    return [
        *(each.detach().clone() for each in result),
        *(each.requires_grad for each in result),
        *(_copied(each.grad) for each in sources),
        *(_copied(each.grad) if each.retains_grad else None for each in result),
        *(each.detach().clone() for each in leaves),
        *([] if state is None else [each.detach().clone() for each in state.buffers()]),
    ]


def same_effects(first: Sequence[Any], second: Sequence[Any], tolerance: float = 1e-4) -> bool:
    """Say whether two calls had the same effects, to a tolerance relative to the largest number of
    each tensor.
    """
    return len(first) == len(second) and all(
        _same(one, other, tolerance) for one, other in zip(first, second, strict=True)
    )


def _same(one: Any, other: Any, tolerance: float) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return type(one) is type(other) and one == other
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if not one.is_floating_point() and not one.is_complex():
        return one.equal(other)
    finite = [
        each.abs().nan_to_num(0.0, 0.0, 0.0).max().item() for each in (one, other) if each.numel()
    ]
    allowed = _ROUNDING + tolerance * max(finite, default=0.0)
    return torch.allclose(one, other, rtol=0.0, atol=allowed, equal_nan=True)


def _weights(result: Tensor) -> Tensor:
    """Return weights that no normalization makes a constant of the weighted sum."""
    positions = torch.arange(result.numel(), dtype=torch.float64).reshape(result.shape)
    return torch.cos(1.7 * positions).to(result.dtype)


def _fresh(values: Any) -> Any:
    def fresh(tensor: Tensor) -> Tensor:
        return tensor.detach().clone().requires_grad_(tensor.requires_grad)

    return tree_map_only(Tensor, fresh, copy.copy(values))


def _copied(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.detach().clone()
