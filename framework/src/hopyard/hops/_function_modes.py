"""Function modes around a call: they see it, then the body, and nothing of what is between.

torch takes each function mode off while the mode sees a call of an operator. Left off, the modes
would miss the body: a default device would not apply to it.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from .._torch.dispatch import function_mode_stack
from .._torch.predispatch import PreDispatchTorchFunctionMode
from .._torch.provenance import (
    TorchFunctionMetadataMode,
    function_mode_count,
    pop_function_mode,
    push_function_mode,
)


class _State(threading.local):
    passing: tuple[Any, ...] = ()
    hidden: tuple[Any, ...] = ()


_state = _State()


def are_new() -> bool:
    """Say whether function modes are active that a call has yet to pass."""
    return bool(function_mode_count()) and not _state.passing


@contextmanager
def passing() -> Generator[None, None, None]:
    """Enter the way of a call through the active function modes."""
    before, _state.passing = _state.passing, tuple(function_mode_stack())
    try:
        yield
    finally:
        _state.passing = before


def are_passed() -> bool:
    """Say whether a call has just passed function modes, which are off now."""
    return bool(_state.passing)


@contextmanager
def hiding() -> Generator[None, None, None]:
    """Keep the modes that a call has passed until its body runs."""
    modes, _state.passing = _state.passing, ()
    before, _state.hidden = _state.hidden, modes
    try:
        yield
    finally:
        _state.hidden = before


@contextmanager
def shown(*, notes: bool = True, aside: bool = False) -> Generator[None, None, None]:
    """Put the hidden modes back for the author's or the user's code.

    Args:
        notes: Whether torch's own mode is put back that notes which function a node comes from.
        aside: Whether the code is recorded in a graph of its own, so that the modes are not put
            back that record grad modes and autocast in the graph around it.
    """
    hidden, _state.hidden = _state.hidden, ()
    modes = [
        mode
        for mode in hidden
        if (notes or type(mode) is not TorchFunctionMetadataMode)
        and not (aside and isinstance(mode, PreDispatchTorchFunctionMode))
    ]
    for mode in modes:
        push_function_mode(mode)
    try:
        yield
    finally:
        for _ in modes:
            pop_function_mode()
        _state.hidden = hidden
