"""What a program computes, as a plain value: two programs are equal if these are."""

from __future__ import annotations

import operator
import re
from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.export.graph_signature import ConstantArgument
from torch.fx import GraphModule, Node

from .._torch.dispatch import HigherOrderOperator, OpOverload
from ._calling import TensorType

if TYPE_CHECKING:
    from ._program import Program

_SYMBOL = re.compile(r"\bs[0-9]+\b")


def structure_of(program: Program) -> Hashable:
    """Return what `program` does, without names of nodes, values of tensors and metadata."""
    positions = {node.name: index for index, node in enumerate(program.graph.nodes)}
    tensors = {**program.state, **program.constants}
    signature = program.signature
    inputs = [
        (spec.kind.name, spec.target, spec.persistent, _type(tensors.get(str(spec.target))))
        for spec in signature.input_specs
    ]
    outputs = [
        (spec.kind.name, positions.get(str(spec.target), spec.target), _constant(spec.arg))
        for spec in signature.output_specs
    ]
    convention = program.convention
    shapes = [leaf.expected for leaf in convention.inputs]
    rename = _Renaming(shapes)
    aliases = [
        (each.result, positions[each.operand], rename(each.view)) for each in convention.aliases
    ]
    return (
        _graph(program.graph_module),
        tuple(inputs),
        tuple(outputs),
        tuple(rename(_type(each)) for each in shapes),
        tuple(rename(each) for each in convention.symbols.ranges),
        frozenset(rename(each) for each in convention.symbols.conditions),
        repr(convention.in_spec),
        repr(convention.out_spec),
        tuple(aliases),
    )


class _Renaming:
    """Writes values with symbols that are numbered as they occur in the shapes of inputs."""

    def __init__(self, expected: Iterable[Any]) -> None:
        shapes = [str(each) for each in expected if isinstance(each, TensorType)]
        found = dict.fromkeys(name for shape in shapes for name in _SYMBOL.findall(shape))
        self._names = {name: f"size{index}" for index, name in enumerate(found)}

    def __call__(self, value: Any) -> str:
        return _SYMBOL.sub(lambda found: self._names.get(found[0], found[0]), str(value))


def _graph(graph_module: GraphModule) -> Hashable:
    positions = {node: index for index, node in enumerate(graph_module.graph.nodes)}
    return tuple(
        (
            node.op,
            _target(graph_module, node),
            _argument(node.args, positions),
            _argument(node.kwargs, positions),
        )
        for node in graph_module.graph.nodes
    )


def _target(graph_module: GraphModule, node: Node) -> Hashable:
    if node.op in ("placeholder", "output"):
        return None
    if node.op in ("get_attr", "call_module"):
        value = operator.attrgetter(str(node.target))(graph_module)
        return _graph(value) if isinstance(value, GraphModule) else id(value)
    if isinstance(node.target, OpOverload | HigherOrderOperator):
        return str(node.target.name())
    return node.target


def _argument(value: Any, positions: Mapping[Node, int]) -> Hashable:
    if isinstance(value, Node):
        return ("%", positions[value])
    if isinstance(value, tuple | list):
        # torch reads lists where tuples were written; no operator tells them apart.
        return ("sequence", *(_argument(item, positions) for item in value))
    if isinstance(value, Mapping):
        items = ((key, _argument(item, positions)) for key, item in value.items())
        return ("mapping", *sorted(items, key=operator.itemgetter(0)))
    if isinstance(value, slice):
        return ("slice", *(_argument(i, positions) for i in (value.start, value.stop, value.step)))
    return _type(value)


def _type(value: Any) -> Hashable:
    """Return what counts of a value: of a tensor its type, of a number how it is written."""
    if isinstance(value, Tensor):
        return TensorType.of(value)
    return value if isinstance(value, TensorType) else (type(value).__qualname__, repr(value))


def _constant(argument: Any) -> Hashable:
    return _type(argument.value) if isinstance(argument, ConstantArgument) else None
