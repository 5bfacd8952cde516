"""Attributes of modules by qualified name."""

from __future__ import annotations

from typing import Any

from torch.nn import Module


def assign_attribute(root: Module, target: str, value: Any) -> None:
    """Make `value` what a `get_attr` node with this target reads, with modules on the way."""
    *path, name = target.split(".")
    owner = root
    for step in path:
        if not hasattr(owner, step):
            owner.add_module(step, Module())
        owner = getattr(owner, step)
    setattr(owner, name, value)
