"""The safeguard without a session, around whatever traces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from hopyard.errors import SafeguardError
from hopyard.safeguards import active_tracing, set_grad_enabled
from hopyard.tracing import current_location
from hopyard_hookspecs import Finding, Policy

from ._hazards import GRAD_MODE_LOST


class AutogradStateSafeguard(TorchFunctionMode):
    """Refuses changes of the grad mode while a program is traced, by any tracer.

    Use it around torch's own `make_fx` or `torch.export`. A change that sets the mode to what it
    already is is none, and a tracer above autograd records changes itself; whether a gradient
    passes through the block is not asked, since the graph is not at hand.

    Example::

        with AutogradStateSafeguard():
            graph = make_fx(f)(x)

    Raises:
        SafeguardError: At the call that changes the mode, from within the traced program.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Refuse the call if it changes the grad mode of a traced program."""
        if func is set_grad_enabled and bool(args[0]) != torch.is_grad_enabled():
            tracing = active_tracing()
            if tracing is not None and not tracing.pre_dispatch:
                raise SafeguardError(_finding(enabled=bool(args[0])))
        return func(*args, **(kwargs or {}))


def _finding(*, enabled: bool) -> Finding:
    switch = "enabled" if enabled else "disabled"
    lost = "would be missing from" if enabled else "that the program stops would flow in"
    return Finding(
        GRAD_MODE_LOST.code,
        f"gradients are {switch} while the program is traced, which its graph cannot show: "
        f"gradients {lost} the graph",
        remedy=GRAD_MODE_LOST.remedy,
        location=current_location(),
        safeguard="autograd-state",
        policy=Policy.ERROR,
    )
