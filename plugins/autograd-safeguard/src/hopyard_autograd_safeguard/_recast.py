"""What autocast would do to a recorded operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg


def recast(node: Node) -> torch.dtype | None:
    """Return the type that an operator would compute in under autocast as it is now, if another.

    The operator runs on the fake tensors that the recording describes it with.
    """
    found = node.meta.get("val")
    schema = getattr(node.target, "_schema", None)
    if not isinstance(found, Tensor) or schema is None or schema.is_mutable:
        return None
    args, kwargs = map_arg((node.args, dict(node.kwargs)), _value)
    target: Any = node.target
    result = target(*args, **kwargs)
    return None if result.dtype == found.dtype else result.dtype


def _value(node: Node) -> Any:
    return node.meta["val"]
