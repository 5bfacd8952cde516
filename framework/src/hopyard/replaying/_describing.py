"""What metadata says of a value."""

from __future__ import annotations

from typing import Any

import torch
from torch import SymBool, SymFloat, SymInt, Tensor
from torch.fx import Node

from .._torch.fake import FakeTensor, FakeTensorMode, UnsupportedFakeTensorException
from .._torch.graphs import extract_tensor_metadata

_PLAIN = (SymInt, SymFloat, SymBool, int, float, bool, str)


def describe_value(node: Node, value: Any, fake_mode: FakeTensorMode) -> None:
    """Write what `value` is into the metadata of the node that computes it.

    Real tensors are described by fake ones whose sizes are numbers, quantized ones by what they
    stand for. A tensor subclass that nobody can make fake is described by `tensor_meta` alone.
    `tensor_meta` is kept where there was one.

    Args:
        node: The node.
        value: What it computes: a tensor, a number, or a container of them.
        fake_mode: Makes fake tensors.
    """
    meta = node.meta
    try:
        meta["val"] = _map(value, lambda leaf: _described(leaf, fake_mode))
    except UnsupportedFakeTensorException:
        meta["val"] = None
        meta["tensor_meta"] = _map(
            value, lambda leaf: extract_tensor_metadata(leaf) if isinstance(leaf, Tensor) else None
        )
        return
    if "tensor_meta" not in meta:
        return
    val = meta["val"]
    if isinstance(val, Tensor) and meta["tensor_meta"] is not None and not val.is_sparse:
        meta["tensor_meta"] = extract_tensor_metadata(val)
    else:
        del meta["tensor_meta"]


def _described(leaf: Any, fake_mode: FakeTensorMode) -> Any:
    if isinstance(leaf, FakeTensor):
        return leaf
    if isinstance(leaf, Tensor):
        plain = torch.dequantize(leaf) if leaf.is_quantized else leaf
        return fake_mode.from_tensor(plain, static_shapes=True)
    return leaf if isinstance(leaf, _PLAIN) else None


def _map(value: Any, function: Any) -> Any:
    if isinstance(value, (list, tuple)):
        items = [_map(item, function) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        return {key: _map(item, function) for key, item in value.items()}
    return function(value)
