"""`strict_mode`: run a function that must be one graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from hopyard.errors import UsageError
from hopyard.hops import bind, is_eager
from hopyard.strictness import call_strictly

from ._region import REGION

T = TypeVar("T")

region = bind(REGION)
"""The operator behind :func:`strict_mode`.

Graphs hold it as `torch.ops.higher_order.strict_mode__region`.
"""


def strict_mode(body: Callable[..., T], operands: Sequence[Tensor]) -> T:
    """Run `body(*operands)` as a strict region.

    In eager execution whatever a strict capture could not see, such as a print, a branch on a
    tensor's value or a write to a global, is refused with its line. In a capture the region is kept
    as one node with the body as its graph; tensors that the body takes from around it become
    operands.

    Args:
        body: A function of tensors. It must not change its operands in place when it is captured.
        operands: The tensors to call it with.

    Returns:
        What the body returns.

    Raises:
        UnsupportedError: The body is not one graph, or changes an operand in place in a capture.
        UsageError: `operands` is no list or tuple, or `body` no function.

    Example:
        .. code-block:: python

            def normalise(x):
                return x / x.norm(dim=-1, keepdim=True)

            embedding = strict_mode(normalise, (pooled,))
    """
    if not isinstance(operands, (list, tuple)):
        raise UsageError(
            f"operands is a {type(operands).__name__} instead of a tuple of tensors",
            hint="write strict_mode(body, (x,))",
            stage="strict_mode",
        )
    if not callable(body):
        raise UsageError(
            f"the body is a {type(body).__name__} instead of a function",
            hint="write strict_mode(body, (x,))",
            stage="strict_mode",
        )
    if torch.compiler.is_dynamo_compiling():
        return body(*operands)
    if is_eager(operands):
        result: T = call_strictly(body, *operands)
        return result
    captured: T = region(body, *operands)
    return captured
