"""Which operators the XNNPACK backend takes, and why it leaves others.

XNNPACK computes with dense 32-bit floats of one to six dimensions. Weights of products and
convolutions have to be constant, and a batch norm has to follow a convolution, into which it is
folded.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from hopyard.partitioning import STATE

aten = torch.ops.aten

_LARGEST_RANK = 6


def objection(node: Node) -> str:
    """Say why XNNPACK does not take a node, or return ""."""
    check = CHECKS.get(node.target)
    if check is None:
        return "is no operator of XNNPACK"
    if node.target in WEIGHT_TRANSPOSES and (_is_transposed_weight(node)):
        return ""
    described = [each.meta.get("val") for each in node.all_input_nodes]
    given = [each.meta.get("val") for each in node.all_input_nodes if each.op == "placeholder"]
    if not all(map(_is_contiguous, given)):
        return "reads a tensor that is not contiguous"
    value = node.meta.get("val")
    described += [value] if not isinstance(value, (tuple, list)) else [value[0]]
    for each in described:
        if not isinstance(each, Tensor):
            return "has an operand that is no tensor"
        if each.dtype is not torch.float32:
            return f"computes with {str(each.dtype).removeprefix('torch.')}, not with float32"
        if each.device.type != "cpu" or each.layout is not torch.strided:
            return "computes with something else than dense tensors on the CPU"
        if not 1 <= each.dim() <= _LARGEST_RANK:
            return f"has an operand of {each.dim()} dimensions"
        if any(type(size) is int and size == 0 for size in each.shape):
            return "computes with empty tensors"
    if any(user.target is operator.getitem and user.args[1] != 0 for user in node.users):
        return "has more than its first result used"
    return check(node)


def _is_contiguous(value: Any) -> bool:
    return not isinstance(value, Tensor) or value.is_contiguous()


def weight_of(operand: Any) -> Node | None:
    """Return the constant weight that an operand of a product is the transpose of, if it is."""
    if not isinstance(operand, Node) or operand.target not in WEIGHT_TRANSPOSES:
        return None
    return operand.args[0] if _is_transposed_weight(operand) else None  # type: ignore[return-value]


def _is_transposed_weight(node: Node) -> bool:
    """Say whether a node only transposes a constant for one product."""
    source = node.args[0]
    if not isinstance(source, Node) or STATE not in source.meta or source.meta["val"].dim() != 2:
        return False
    if source.meta["val"].dtype is not torch.float32:
        return False
    if node.target is aten.permute.default and list(node.args[1]) not in ([1, 0], [-1, -2]):  # type: ignore[arg-type]
        return False
    if node.target is aten.transpose.int and sorted(_axes(node)) != [0, 1]:
        return False
    return len(node.users) == 1 and all(
        user.target in PRODUCTS and user.args[PRODUCTS[user.target]] is node for user in node.users
    )


def _axes(node: Node) -> list[int]:
    given: tuple[Any, ...] = node.args[1:]
    return [axis % 2 for axis in given]


def _plain(node: Node) -> str:
    return ""


def _sum(node: Node) -> str:
    alpha = node.kwargs.get("alpha", node.args[2] if len(node.args) > 2 else 1)
    return "" if alpha == 1 else "scales its second operand"


def _with_number(node: Node) -> str:
    if not isinstance(node.args[1], (Node, int, float)):
        return "has a second operand that is no number"
    return _sum(node) if node.target in _SUMS else ""


def _product(node: Node) -> str:
    if node.kwargs:
        return "scales its operands"
    position = PRODUCTS[node.target]
    if weight_of(node.args[position]) is None:
        return "multiplies by what is no transposed constant"
    if position == 2:
        return _constant(node.args[0], "its bias", rank=1)
    return ""


def _linear(node: Node) -> str:
    if node.args[0].meta["val"].dim() < 2:  # type: ignore[union-attr]
        return "takes a single row"
    bias = node.args[2] if len(node.args) > 2 else None
    wrong = _constant(node.args[1], "its weight", rank=2)
    return wrong or (_constant(bias, "its bias", rank=1) if bias is not None else "")


def _constant(operand: Any, what: str, rank: int) -> str:
    if not isinstance(operand, Node) or STATE not in operand.meta:
        return f"{what} is not constant"
    found = operand.meta["val"].dim()
    return "" if found == rank else f"{what} has {found} dimensions"


def _softmax(node: Node) -> str:
    rank = node.args[0].meta["val"].dim()  # type: ignore[union-attr]
    if node.args[1] not in (-1, rank - 1):
        return "is over another than the last dimension"
    return "converts its operand" if len(node.args) > 2 and node.args[2] else ""


def _view(node: Node) -> str:
    shape: Any = node.args[1]
    if not all(isinstance(size, int) for size in shape):
        return "has a shape that is only known when it runs"
    # XNNPACK infers one dimension at most.
    return "infers several dimensions" if sum(size == -1 for size in shape) > 1 else ""


def _permute(node: Node) -> str:
    return "permutes a constant" if STATE in node.args[0].meta else ""  # type: ignore[union-attr]


def _gelu(node: Node) -> str:
    return "is approximated" if node.kwargs.get("approximate", "none") != "none" else ""


def _clone(node: Node) -> str:
    wanted = node.kwargs.get("memory_format")
    if wanted not in (None, torch.contiguous_format, torch.preserve_format):
        return "changes the memory format"
    return ""


def _cat(node: Node) -> str:
    # Each tensor is an operand; the same one twice is one operand.
    listed: Any = node.args[0]
    return "" if len(listed) >= 2 and len(set(listed)) == len(listed) else "joins one tensor"


def _power(node: Node) -> str:
    return "" if node.args[1] == 2 else "is no square"


def _convolution(node: Node) -> str:
    image, weight, bias = node.args[:3]
    transposed, more = node.args[6:8]
    if transposed or any(each != 0 for each in more):  # type: ignore[union-attr]
        return "is transposed"
    if image.meta["val"].dim() != 4:  # type: ignore[union-attr]
        return "is not over two dimensions"
    wrong = _constant(weight, "its weight", rank=4)
    return wrong or (_constant(bias, "its bias", rank=1) if bias is not None else "")


def _batch_norm(node: Node) -> str:
    if node.target is aten.native_batch_norm.default and node.args[5]:
        return "is in training"
    source: Any = node.args[0]
    if source.target is not aten.convolution.default or len(source.users) > 1:
        return "does not follow a convolution alone"
    if objection(source):
        return "follows a convolution that stays"
    for operand in node.args[1:5]:
        wrong = _constant(operand, "a statistic or weight", rank=1)
        if wrong:
            return wrong
    return ""


def _max_pool(node: Node) -> str:
    given: Any = [*node.args, *_POOL_DEFAULTS[len(node.args) :]]
    kernel, stride, ceil_mode = given[1], given[2], given[5]
    if ceil_mode:
        return "rounds its size up"
    if node.args[0].meta["val"].dim() != 4:  # type: ignore[union-attr]
        return "is not over images"
    steps = stride or kernel
    if any(step > size for step, size in zip(_pair(steps), _pair(kernel), strict=True)):
        return "skips elements"
    return ""


def _pair(sizes: Any) -> tuple[int, int]:
    first, *rest = sizes
    return (first, rest[0] if rest else first)


def _mean(node: Node) -> str:
    operand, axes, *rest = node.args
    rank = operand.meta["val"].dim()  # type: ignore[union-attr]
    keeps = bool(rest and rest[0]) or bool(node.kwargs.get("keepdim"))
    given: Any = axes or ()
    innermost = rank == 4 and sorted(axis % 4 for axis in given) == [2, 3]
    if not (innermost and keeps) or node.kwargs.get("dtype") is not None:
        return "is not over the two inner dimensions of an image"
    return ""


_POOL_DEFAULTS: tuple[Any, ...] = (None, None, [], [0, 0], [1, 1], False)

PRODUCTS: Mapping[Any, int] = {aten.mm.default: 1, aten.addmm.default: 2}
"""Products with a transposed weight, and where it stands."""

WEIGHT_TRANSPOSES = (aten.t.default, aten.permute.default, aten.transpose.int)
"""How a weight is transposed for a product."""

_SUMS = (aten.add.Tensor, aten.sub.Tensor, aten.add.Scalar, aten.sub.Scalar)

WITH_NUMBERS: Mapping[Any, Any] = {
    aten.add.Tensor: aten.add.Tensor,
    aten.sub.Tensor: aten.sub.Tensor,
    aten.mul.Tensor: aten.mul.Tensor,
    aten.div.Tensor: aten.div.Tensor,
    aten.add.Scalar: aten.add.Tensor,
    aten.sub.Scalar: aten.sub.Tensor,
    aten.mul.Scalar: aten.mul.Tensor,
    aten.div.Scalar: aten.div.Tensor,
}
"""Operators whose second operand may be a number, and the form that takes a tensor there."""

NEED_PASSES = (
    aten.convolution.default,
    aten.native_batch_norm.default,
    aten._native_batch_norm_legit_no_training.default,
    aten.max_pool2d_with_indices.default,
    aten.mean.dim,
    aten.relu.default,
    aten.hardtanh.default,
)
"""Operators that ExecuTorch's own preparation has to lay out, fold or fuse."""

CHECKS: Mapping[Any, Callable[[Node], str]] = {
    **dict.fromkeys(WITH_NUMBERS, _with_number),
    **dict.fromkeys(PRODUCTS, _product),
    **dict.fromkeys(
        (
            aten.relu.default,
            aten.sigmoid.default,
            aten.tanh.default,
            aten.abs.default,
            aten.neg.default,
            aten.exp.default,
            aten.log.default,
            aten.sqrt.default,
            aten.rsqrt.default,
            aten.sin.default,
            aten.cos.default,
            aten.floor.default,
            aten.ceil.default,
            aten.hardswish.default,
            aten.leaky_relu.default,
            aten.elu.default,
            aten.hardtanh.default,
            aten.minimum.default,
            aten.maximum.default,
            aten.bmm.default,
        ),
        _plain,
    ),
    aten.linear.default: _linear,
    aten.t.default: _permute,
    aten.permute.default: _permute,
    aten.transpose.int: _permute,
    aten.view.default: _view,
    aten._softmax.default: _softmax,
    aten.gelu.default: _gelu,
    aten.clone.default: _clone,
    aten.cat.default: _cat,
    aten.pow.Tensor_Scalar: _power,
    aten.convolution.default: _convolution,
    aten.native_batch_norm.default: _batch_norm,
    aten._native_batch_norm_legit_no_training.default: _batch_norm,
    aten.max_pool2d_with_indices.default: _max_pool,
    aten.mean.dim: _mean,
}
"""What XNNPACK may take, and what of a call decides."""
