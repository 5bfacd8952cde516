"""Which of Hopyard's own distributions provides which name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_PROVIDED: Final = {
    "hopyard-aotinductor-delegate": (
        ("plugin", "aotinductor-delegate"),
        ("backend", "aotinductor"),
    ),
    "hopyard-autograd-fidelity": (
        ("plugin", "autograd-fidelity"),
        ("hazard", "HY111"),
        ("hazard", "HY112"),
        ("hazard", "HY113"),
        ("hazard", "HY114"),
        ("safeguard", "custom-backward"),
        ("safeguard", "detachment"),
        ("safeguard", "gradient-hooks"),
    ),
    "hopyard-autograd-safeguard": (
        ("plugin", "autograd-safeguard"),
        ("hazard", "HY101"),
        ("hazard", "HY102"),
        ("hazard", "HY103"),
        ("hazard", "HY104"),
        ("safeguard", "autograd-state"),
    ),
    "hopyard-executorch-delegate": (
        ("plugin", "executorch-delegate"),
        ("backend", "reference"),
        ("backend", "xnnpack"),
        ("higher-order operator", "executorch_delegate__call_delegate"),
        ("pass", "delegate"),
        ("pass", "undelegate"),
    ),
    "hopyard-export-pass": (
        ("plugin", "export-pass"),
        ("pass", "cse"),
        ("pass", "dce"),
        ("pass", "decompose"),
        ("pass", "fold-constants"),
        ("pass", "fold-conv-bn"),
        ("pass", "functionalize"),
        ("pass", "fuse-linear-activation"),
        ("pass", "remove-no-ops"),
    ),
    "hopyard-flop-count": (
        ("plugin", "flop-count"),
        ("mode", "flop-count"),
    ),
    "hopyard-strict-mode": (
        ("plugin", "strict-mode"),
        ("higher-order operator", "strict_mode__region"),
    ),
}

CATALOGUE: Final[Mapping[tuple[str, str], str]] = MappingProxyType(
    {entry: distribution for distribution, entries in _PROVIDED.items() for entry in entries}
)
"""Distributions by kind and name, for example `("pass", "fold-scale")`.

A plugin that is not installed cannot say what it would register, so this is the one place that
names plugins; a contract test compares it with what they do register.
"""


def distribution_for(kind: str, name: str) -> str:
    """Return the distribution that provides a name nobody registered, or "" if none is known."""
    return CATALOGUE.get((kind, name), "")
