"""`decompose`: operators become what they decompose into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from hopyard.replaying import TorchPassResult
from hopyard.tracing import DecompositionTable, Placeholder, Tracer, TracingOptions, fake_mode_for

from ._base import ExportPass
from ._compare import attribute
from ._values import NodeMetadata, ProxyValue, leaves_of, map_leaves

aten = torch.ops.aten


@dataclass(frozen=True)
class Decompose:
    """Replace operators, in the bodies of regions as well, by what a table decomposes them into.

    The results have the strides they had. What an operator becomes inherits its metadata, such as
    its source line. Operators that the table does not have stay as they are. One that draws random
    numbers draws others from the same seed once it is decomposed.

    Attributes:
        table: `"core-aten"`: torch's own table, after which the core ATen operators are left,
            except for operators that have no decomposition.
    """

    table: Literal["core-aten"] = "core-aten"

    def __call__(self, graph_module: GraphModule) -> TorchPassResult:
        """Return a decomposed graph.

        Raises:
            ReplayError: A decomposition failed.
        """
        # torch fills its table only when somebody asks for its items.
        table = dict(torch.export.default_decompositions().items())
        return Decomposition(table)(graph_module)


class Decomposition(ExportPass):
    """Replace operators by what a table of your own decomposes them into.

    Args:
        table: Decompositions by operator overload. What an operator decomposes into is decomposed
            as well.
    """

    def __init__(self, table: DecompositionTable) -> None:
        super().__init__()
        self._table = table

    def call_operator(
        self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: NodeMetadata
    ) -> Any:
        """Emit what `op` decomposes into."""
        if op not in self._table:
            return super().call_operator(op, args, kwargs, meta)
        tensors = _tensors((args, kwargs))
        body = self._trace(op, args, kwargs, list(tensors.values()))
        made = self._emit(body, list(tensors.values()), meta)
        expected = iter(leaves_of(op(*map_leaves(_data, args), **map_leaves(_data, kwargs))))
        return map_leaves(lambda leaf: self._in_layout(leaf, next(expected), meta), made)

    def _trace(
        self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Any]
    ) -> GraphModule:
        """Return `op(*args, **kwargs)` as a decomposed graph whose inputs are `tensors`."""
        data = [_data(tensor) for tensor in tensors]
        fake_mode = fake_mode_for(data)

        def run(*values: Any) -> Any:
            given = dict(zip(map(id, data), values, strict=True))

            def value(leaf: Any) -> Any:
                found = _data(leaf)
                return given[id(found)] if isinstance(found, Tensor) else found

            return op(*map_leaves(value, args), **map_leaves(value, kwargs))

        options = TracingOptions("fake", fake_mode, self._table)
        placeholders = [Placeholder(f"operand_{index}") for index in range(len(data))]
        body: GraphModule = Tracer(options).trace(run, data, placeholders, "Decomposed")
        return body

    def _emit(self, body: GraphModule, operands: list[Any], meta: NodeMetadata) -> Any:
        """Emit the nodes of `body`, which are not decomposed again."""
        values: dict[Node, Any] = {}
        remaining = iter(operands)
        for node in body.graph.nodes:
            if node.op == "placeholder":
                values[node] = next(remaining)
            elif node.op == "get_attr":
                values[node] = attribute(body, str(node.target))
            elif node.op == "output":
                return _filled(node.args[0], values)
            else:
                args, kwargs = _filled(node.args, values), _filled(node.kwargs, values)
                values[node] = super().call_operator(node.target, args, kwargs, meta)
        raise AssertionError("a traced graph has an output")

    def _in_layout(self, value: Any, expected: Any, meta: NodeMetadata) -> Any:
        """Emit a copy of `value` in the strides that the operator itself gives, if it has others.

        Views further on were recorded for those strides; others might make them impossible.
        """
        found = _data(value)
        if not isinstance(found, Tensor) or not isinstance(expected, Tensor):
            return value
        if found.shape != expected.shape or _effective(found) == _effective(expected):
            return value
        order = sorted(range(expected.dim()), key=expected.stride, reverse=True)
        if not expected.permute(order).is_contiguous():
            return value
        inverse = sorted(range(len(order)), key=order.__getitem__)
        emit = super().call_operator
        permuted = emit(aten.permute.default, (value, order), {}, meta)
        contiguous = {"memory_format": torch.contiguous_format}
        copied = emit(aten.clone.default, (permuted,), contiguous, meta)
        return emit(aten.permute.default, (copied, inverse), {}, meta)


def _effective(tensor: Tensor) -> list[int]:
    """Return the strides that matter: those of dimensions with more than one element."""
    return [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size != 1]


def _filled(arguments: Any, values: Mapping[Node, Any]) -> Any:
    return map_leaves(lambda leaf: leaf, map_arg(arguments, values.__getitem__))


def _data(leaf: Any) -> Any:
    return leaf.data if isinstance(leaf, ProxyValue) else leaf


def _tensors(arguments: Any) -> dict[int, Any]:
    """Return handles of tensors and tensors among arguments, each tensor once."""
    return {
        id(_data(leaf)): leaf for leaf in leaves_of(arguments) if isinstance(_data(leaf), Tensor)
    }
