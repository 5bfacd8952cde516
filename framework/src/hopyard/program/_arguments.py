"""What an operator is called with, by the names in its schema."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from .._torch.dispatch import OpOverload


def arguments_of(node: Node) -> dict[str, Any]:
    """Return the arguments of a call of an operator, defaults included."""
    operator = node.target
    assert isinstance(operator, OpOverload)
    parameters = operator._schema.arguments
    defaults = {each.name: each.default_value for each in parameters if each.has_default_value()}
    names = [each.name for each in parameters]
    return {**defaults, **dict(zip(names, node.args, strict=False)), **node.kwargs}
