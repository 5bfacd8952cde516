"""What a plugin makes its modes of."""

from __future__ import annotations

from ._torch.dispatch import TorchDispatchMode


class OperatorMode(TorchDispatchMode):
    """A context manager that sees every operator that is called inside.

    A subclass defines `__torch_dispatch__(self, function, types, args=(), kwargs=None)`, which
    calls `function` and returns its result. While that runs, the mode is off. The call of a region
    operator arrives as one call.
    """

    supports_higher_order_operators = True
