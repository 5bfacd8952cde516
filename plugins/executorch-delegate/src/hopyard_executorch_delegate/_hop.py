"""The higher-order operator that calls a lowered partition."""

from __future__ import annotations

from typing import Any

from hopyard_hookspecs import Hop


def _call(*args: Any) -> Any:
    # The declaration is read by listings, which do not pay for torch.
    from ._lowered_module import call

    return call(*args)


def _restore(*args: Any) -> Any:
    from ._artifact import restore

    return restore(*args)


CALL_DELEGATE = Hop(
    "executorch_delegate__call_delegate",
    eager=_call,
    kind="operator",
    summary="Run a lowered partition.",
    restore=_restore,
)
"""Called as `(lowered_module, *operands)`; :data:`call_delegate` is the operator to call."""
