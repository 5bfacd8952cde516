"""`strict_mode`: run a function that must be one graph."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

import torch

from hopyard.errors import UsageError
from hopyard.hops import bind, is_eager, is_traced
from hopyard.strictness import call_strictly, check_strictly

from ._region import REGION

T = TypeVar("T")

region = bind(REGION)
"""The operator behind :func:`strict_mode`.

Graphs hold it as `torch.ops.higher_order.strict_mode__region`.
"""

_MISSING: Any = object()


@overload
def strict_mode(body: Callable[..., T]) -> Callable[..., T]: ...
@overload
def strict_mode(body: Callable[..., T], operands: Sequence[Any]) -> T: ...
def strict_mode(body: Callable[..., T], operands: Sequence[Any] = _MISSING) -> Any:
    """Run `body(*operands)` as a strict region; without operands, return a function that does so.

    Whatever a strict capture could not see, such as a print, a branch on a tensor's value or a
    write to a global, is refused with its line, before the body has run: in eager execution, within
    a capture, Hopyard's or torch's, and under `torch.compile`. A graph holds the region as one node
    with the body as its graph; tensors that the body takes from around it become operands.

    Args:
        body: A function of tensors. It must not change its operands in place when it is captured or
            compiled, nor return a view of one when it is compiled.
        operands: What to call it with: tensors, plain values, and lists, tuples and dictionaries of
            them. A function that was decorated takes its arguments as operands if they are such
            values, and closes over the others, such as `self`.

    Returns:
        What the body returns.

    Raises:
        UnsupportedError: The body is not one graph, or does what a graph cannot tell.
        UsageError: `operands` is no list or tuple, or `body` no function.

    Example:
        .. code-block:: python

            def normalise(x):
                return x / x.norm(dim=-1, keepdim=True)

            embedding = strict_mode(normalise, (pooled,))

            @strict_mode
            def shifted(x, offset):
                return normalise(x) + offset

            shifted(pooled, offset)
    """
    if not callable(body):
        raise UsageError(
            f"the body is a {type(body).__name__} instead of a function",
            hint="write strict_mode(body, (x,))",
            stage="strict_mode",
        )
    if operands is _MISSING:
        return _decorated(body)
    if not isinstance(operands, (list, tuple)):
        raise UsageError(
            f"operands is a {type(operands).__name__} instead of a tuple of tensors",
            hint="write strict_mode(body, (x,))",
            stage="strict_mode",
        )
    if not torch.compiler.is_dynamo_compiling():
        if is_eager(operands):
            return call_strictly(body, *operands)
        if is_traced():
            check_strictly(body, *operands)
    return region(body, *operands)


def _decorated(body: Callable[..., T]) -> Callable[..., T]:
    @functools.wraps(body)
    def strict(*args: Any, **kwargs: Any) -> T:
        given = [*args, *kwargs.values()]
        places = [place for place, value in enumerate(given) if _is_operand(value)]

        def call(*operands: Any) -> T:
            values = list(given)
            for place, operand in zip(places, operands, strict=True):
                values[place] = operand
            named = dict(zip(kwargs, values[len(args) :], strict=True))
            return body(*values[: len(args)], **named)

        return strict_mode(call, [given[place] for place in places])

    return strict


def _is_operand(value: Any) -> bool:
    """Say whether a graph can hold a value: a tensor, a plain value or a container of such."""
    if isinstance(value, dict):
        return all(_is_operand(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return all(_is_operand(item) for item in value)
    plain = (torch.Tensor, torch.SymInt, torch.SymFloat, torch.SymBool, bool, int, float, str)
    return value is None or isinstance(value, plain)
