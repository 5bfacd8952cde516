"""Running functions and graphs on copies of their inputs, and comparing what comes of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.utils._pytree import tree_leaves, tree_map_only

SEED = 2026


def copied(values: Sequence[Any]) -> tuple[Any, ...]:
    """Return `values` with tensors copied; strides, offsets and shared memory stay."""
    storages: dict[int, torch.UntypedStorage] = {}
    return tuple(
        _copied_tensor(value, storages) if isinstance(value, Tensor) else value for value in values
    )


def run(function: Callable[..., Any], inputs: Sequence[Any]) -> tuple[Any, Any]:
    """Return what a function makes of a copy of `inputs`, and that copy as the function leaves it.

    A graph runs without autograd, and outside inference mode: what autograd did is in the graph.
    """
    given = copied(inputs)
    is_graph = isinstance(function, GraphModule)
    if is_graph:
        given = tree_map_only(Tensor, _plain, given)
    torch.manual_seed(SEED)
    with settings_restored(), torch.set_grad_enabled(not is_graph):
        return function(*given), given


def differing_results(one: Any, other: Any, tolerance: float = 0.0) -> str:
    """Return how two results of :func:`run`, or exceptions instead, differ; "" if they do not."""
    if isinstance(one, Exception) or isinstance(other, Exception):
        if isinstance(one, Exception) and isinstance(other, Exception):
            return ""
        return f"one run gives {told(one)}, the other {told(other)}"
    ours, theirs = tree_leaves(one), tree_leaves(other)
    if len(ours) != len(theirs):
        return f"{len(ours)} and {len(theirs)} results"
    for index, (left, right) in enumerate(zip(ours, theirs, strict=True)):
        problem = _differing_values(left, right, tolerance)
        if problem:
            return f"result {index}: {problem}"
    return ""


@contextlib.contextmanager
def settings_restored() -> Iterator[None]:
    """Restore in the end what programs set for the whole process."""
    dtype = torch.get_default_dtype()
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.use_deterministic_algorithms(deterministic)


def attempt(action: Callable[[], Any]) -> Any:
    """Return what an action returns, or the exception that it raises."""
    try:
        return action()
    except Exception as error:  # noqa: BLE001
        return error


def _copied_tensor(tensor: Tensor, storages: dict[int, torch.UntypedStorage]) -> Tensor:
    plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout is torch.strided
    if not plain or tensor.is_quantized or tensor.is_conj() or tensor.is_neg():
        copy = tensor.detach().clone()
    else:
        source = tensor.untyped_storage()
        storage = storages.setdefault(source._cdata, source.clone())
        copy = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        copy.set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())
    if tensor.is_inference():
        with torch.inference_mode():
            return copy.clone()
    # `.data` starts to count the writes anew: autograd sees a tensor that nobody has written to.
    copy = copy.data
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(copy, tensor.requires_grad)
    return copy.requires_grad_(tensor.requires_grad)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def _differing_values(one: Any, other: Any, tolerance: float) -> str:
    if isinstance(one, Tensor) is not isinstance(other, Tensor):
        return f"{type(one).__name__} and {type(other).__name__}"
    if not isinstance(one, Tensor):
        same = (type(one), one) == (type(other), other) or (one != one and other != other)
        return "" if same else f"{one!r} and {other!r}"
    try:
        torch.testing.assert_close(
            one.detach(), other.detach(), rtol=tolerance, atol=tolerance, equal_nan=True
        )
    except AssertionError as difference:
        return str(difference)
    return ""


def told(value: Any) -> str:
    """Return the first line of an exception, and of its cause."""
    if not isinstance(value, Exception):
        return "a result"
    first = (str(value).strip().splitlines() or [""])[0]
    cause = f" (from {told(value.__cause__)})" if isinstance(value.__cause__, Exception) else ""
    return f"{type(value).__name__}: {first[:200]}{cause[:200]}"
