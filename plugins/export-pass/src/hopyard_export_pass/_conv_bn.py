"""`fold-conv-bn`: a batch normalization that follows a convolution becomes part of it."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn.utils.fusion import fuse_conv_bn_weights

from hopyard.passes import refresh_values
from hopyard.pipeline import derive_metadata
from hopyard.program import Program, StateEditor

from ._effects import is_pure

if TYPE_CHECKING:
    from hopyard.session import Session

aten = torch.ops.aten

_TRANSPOSED = {aten.convolution.default: 6}
"""Position of the argument that says whether a convolution is transposed."""

_GROUPS = {
    aten.conv1d.default: 6,
    aten.conv2d.default: 6,
    aten.conv3d.default: 6,
    aten.convolution.default: 8,
}
"""Convolutions, with the position of the number of groups."""

_IN_TRAINING: Mapping[Any, int | None] = {
    aten._native_batch_norm_legit_no_training.default: None,
    aten.batch_norm.default: 5,
    aten.native_batch_norm.default: 5,
}
"""Batch normalizations, with the position of the argument that says whether it is training."""

_EPSILON = {
    aten._native_batch_norm_legit_no_training.default: 6,
    aten.batch_norm.default: 7,
    aten.native_batch_norm.default: 7,
}


class _Pair(NamedTuple):
    """A convolution and the normalization of its result.

    Attributes:
        convolution: The convolution.
        normalization: The normalization.
        result: What others use: the normalization, or the first of its results.
    """

    convolution: Node
    normalization: Node
    result: Node


@dataclass(frozen=True)
class FoldConvolutionBatchNorm:
    """Fold a batch normalization with fixed statistics into the convolution before it.

    The convolution gets a new weight and bias, which are constants: later changes of the parameters
    have no effect and no gradients reach them, so this is for inference. It is done where nothing
    else uses the result of the convolution, and where weights and statistics are parameters,
    buffers or constants of one data type that the program does not write. A module that normalizes
    with the statistics of its input, as in training, stays, and so do bodies of regions. Weights
    that other layers use as well are left as they are for those.
    """

    def __call__(self, program: Program, session: Session) -> Program:
        """Return the folded program."""
        graph_module = program.graph_module
        if not is_pure(graph_module):
            return program
        editor = StateEditor(program)
        fixed = editor.fixed(state=True)
        made = []
        for node in list(graph_module.graph.nodes):
            pair = _pair(node)
            if pair is not None and _is_known(pair, fixed):
                made.append(_fold(editor, pair, fixed))
        if not made:
            return program
        refresh_values(graph_module, made)
        editor.drop_unused(fixed)
        return editor.finish()


def _pair(node: Node) -> _Pair | None:
    """Return a normalization with the convolution before it, if it can be folded as to its form."""
    if node.target not in _IN_TRAINING or node.kwargs:
        return None
    position = _IN_TRAINING[node.target]
    convolution = node.args[0]
    if position is not None and node.args[position] is not False:
        return None
    if not isinstance(convolution, Node) or convolution.target not in _GROUPS:
        return None
    if len(convolution.users) != 1 or convolution.kwargs:
        return None
    result = _only_result(node)
    weight = convolution.args[1]
    if result is None or not isinstance(weight, Node):
        return None
    recorded, shape = convolution.meta.get("val"), weight.meta.get("val")
    if not isinstance(recorded, Tensor) or not isinstance(shape, Tensor):
        return None
    # Without a batch dimension, another dimension than that of the channels is normalized.
    if recorded.dim() != shape.dim():
        return None
    if _is_transposed(convolution) and _groups(convolution) != 1:
        return None
    return _Pair(convolution, node, result)


def _only_result(node: Node) -> Node | None:
    """Return the node of the normalized values, if nothing uses another result."""
    if isinstance(node.meta.get("val"), Tensor):
        return node
    users = list(node.users)
    is_first = all(user.target is operator.getitem and user.args[1] == 0 for user in users)
    return users[0] if is_first and len(users) == 1 else None


def _is_known(pair: _Pair, fixed: Mapping[Node, Tensor]) -> bool:
    operands = [pair.convolution.args[1], *pair.normalization.args[3:5]]
    optional = [_argument(pair.convolution, 2, None), *pair.normalization.args[1:3]]
    operands += [operand for operand in optional if operand is not None]
    if not all(isinstance(operand, Node) and operand in fixed for operand in operands):
        return False
    dtypes = {fixed[operand].dtype for operand in operands}  # type: ignore[index]
    return len(dtypes) == 1 and dtypes == {pair.result.meta["val"].dtype}


def _fold(editor: StateEditor, pair: _Pair, fixed: Mapping[Node, Tensor]) -> Node:
    convolution, normalization, result = pair
    weight: Any = convolution.args[1]
    bias: Any = _argument(convolution, 2, None)
    parts: list[Any] = [
        fixed[operand] if isinstance(operand, Node) else None for operand in normalization.args[1:5]
    ]
    scale, shift, mean, variance = parts
    epsilon: Any = normalization.args[_EPSILON[normalization.target]]  # type: ignore[index]
    with torch.no_grad():
        folded = fuse_conv_bn_weights(
            fixed[weight],
            fixed[bias] if bias is not None else None,
            mean,
            variance,
            epsilon,
            scale,
            shift,
            transpose=_is_transposed(convolution),
        )
    constants = [editor.add(each.detach()) for each in folded]
    graph = convolution.graph
    with graph.inserting_before(normalization):
        rest = convolution.args[3:]
        target: Any = convolution.target
        new = graph.call_function(target, (convolution.args[0], *constants, *rest))
    derive_metadata(new, dict.fromkeys([convolution, normalization, result]))
    result.replace_all_uses_with(new)
    for node in dict.fromkeys([result, normalization, convolution]):
        graph.erase_node(node)
    return new


def _is_transposed(convolution: Node) -> bool:
    position = _TRANSPOSED.get(convolution.target)  # type: ignore[call-overload]
    return position is not None and bool(convolution.args[position])


def _groups(convolution: Node) -> Any:
    return _argument(convolution, _GROUPS[convolution.target], 1)  # type: ignore[index]


def _argument(node: Node, position: int, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else default
