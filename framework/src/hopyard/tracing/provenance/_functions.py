"""Which torch function a node comes from.

While a program is captured, a function mode is active as it is under torch's tracer. Some of
torch's modules take another path under a function mode (`nn.TransformerEncoderLayer` has a fused
one without), so that graphs would differ without it, whether nodes tell their function or not.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import SymInt, Tensor
from torch.fx import Node
from torch.overrides import TorchFunctionMode

from hopyard_hookspecs import CaptureRequest

from ..._torch.provenance import (
    TorchFunctionMetadataMode,
    function_mode_count,
    pop_function_mode,
    push_function_mode,
)
from ..bridge._reentry import active_tracer

_SIZE: Final = torch.ops.aten.size.default
_SYMBOLIC_SIZE: Final = torch.ops.aten.sym_size.default


class FunctionNotes:
    """The torch function that was called last, and how often each was called."""

    def __init__(self) -> None:
        self._last: Callable[..., Any] | None = None
        self._counts: dict[Callable[..., Any], int] = {}

    def note(self, function: Callable[..., Any]) -> None:
        """Take note of a call."""
        self._last = function
        self._counts[function] = self._counts.get(function, 0) + 1

    def describe(self, node: Node) -> None:
        """Write on `node` which call it comes from, unless it tells already."""
        function = self._last
        if function is None or "torch_fn" in node.meta:
            return
        name = function.__name__
        kind = type(function).__name__
        node.meta["torch_fn"] = (f"{name}_{self._counts[function]}", f"{kind}.{name}")


class FunctionMode(TorchFunctionMetadataMode):
    """Sees every torch function that a program calls, above autograd.

    It derives from torch's mode only to be found by its type: torch takes it off its stack while it
    runs Dynamo.

    Args:
        notes: What takes note of calls; None if nothing does.
    """

    def __init__(self, notes: FunctionNotes | None) -> None:
        TorchFunctionMode.__init__(self)
        self._notes = notes

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function; the sizes of a tensor with symbolic ones are asked for as symbols."""
        if self._notes is not None:
            self._notes.note(func)
        if func is _SIZE and _has_symbolic_sizes(args):
            return _SYMBOLIC_SIZE(*args, **(kwargs or {}))
        # For each function that the program calls: `make bench-trace` shows what it costs.
        return func(*args, **kwargs) if kwargs else func(*args)


def function_mode(request: CaptureRequest) -> FunctionMode:
    """Return the function mode of the capture that is starting on this thread."""
    tracer = active_tracer()
    return FunctionMode(None if tracer is None else tracer.recorder.origin.functions)


@contextmanager
def function_mode_removed(
    kind: type[TorchFunctionMode] = FunctionMode,
) -> Generator[TorchFunctionMode | None, None, None]:
    """Take the innermost function mode of a kind off this thread's stack for a while.

    Yields the mode, or None if there is none. Modes above it stay, in their order.
    """
    above: list[TorchFunctionMode] = []
    removed = None
    while removed is None and function_mode_count():
        mode = pop_function_mode()
        if isinstance(mode, kind):
            removed = mode
        else:
            above.append(mode)
    _push(above)
    try:
        yield removed
    finally:
        if removed is not None:
            for _ in above:
                pop_function_mode()
            push_function_mode(removed)
            _push(above)


def _push(modes: list[TorchFunctionMode]) -> None:
    for mode in reversed(modes):
        push_function_mode(mode)


def _has_symbolic_sizes(args: tuple[Any, ...]) -> bool:
    if len(args) != 1 or not isinstance(args[0], Tensor):
        return False
    return any(isinstance(size, SymInt) for size in args[0].shape)
