"""What a partition computes, as a number: equal partitions have equal ones."""

from __future__ import annotations

import ctypes
import hashlib
import json
import operator
from collections.abc import Mapping
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch import SymBool, SymFloat, SymInt, Tensor
from torch.fx import GraphModule, Node

from .._torch.dispatch import OpOverload
from ._state import RANGES, STATE

_NAMED = (torch.dtype, torch.device, torch.layout, torch.memory_format)


class Unknown(ValueError):
    """A graph holds something that has no content of its own."""


def content_of(partition: GraphModule, *, values: bool = False) -> str | None:
    """Return a digest of what a partition computes; None if it holds what cannot be compared.

    Names of nodes and of symbols do not count; operators, arguments, the types of all values and
    the ranges of symbols do.

    Args:
        partition: The partition.
        values: Whether the values of its constant state count as well.
    """
    try:
        written = _Writer(partition.meta.get(RANGES, {})).graph(partition, values)
    except Unknown:
        return None
    return hashlib.sha256(json.dumps(written).encode()).hexdigest()


def digest_of(tensor: Tensor) -> str:
    """Return a digest of a tensor's type and values.

    Raises:
        ValueError: It is no dense tensor.
    """
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise Unknown(f"a tensor of layout {tensor.layout} has no plain values")
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    size = plain.numel() * plain.element_size()
    if size:
        digest.update((ctypes.c_char * size).from_address(plain.data_ptr()))
    return digest.hexdigest()


class _Writer:
    """Writes values with symbols that are numbered as they occur."""

    def __init__(self, ranges: Mapping[Any, Any]) -> None:
        self._ranges = ranges
        self._symbols: dict[sympy.Symbol, sympy.Symbol] = {}
        self._numbers: dict[Node, int] = {}

    def graph(self, graph_module: GraphModule, values: bool) -> list[Any]:
        lines = []
        for node in graph_module.graph.nodes:
            line: list[Any] = [node.op, self._target(node)]
            if node.op != "placeholder":
                line += [self._value(node.args), self._value(node.kwargs)]
            line.append(self._value(node.meta.get("val")))
            state = node.meta.get(STATE) if values and node.op == "placeholder" else None
            line.append(None if state is None else digest_of(state))
            lines.append(line)
            self._numbers[node] = len(self._numbers)
        known = [[str(new), str(self._ranges.get(old))] for old, new in self._symbols.items()]
        return [lines, known]

    def _target(self, node: Node) -> str:
        if node.op in ("placeholder", "output"):
            return ""
        if node.target is operator.getitem or isinstance(node.target, OpOverload):
            return str(node.target)
        if node.op == "call_function" and getattr(node.target, "__module__", "") in _PLAIN_MODULES:
            return f"{node.target.__module__}.{node.target.__name__}"  # type: ignore[union-attr]
        raise Unknown

    def _value(self, value: Any) -> Any:
        if isinstance(value, Node):
            return ["%", self._numbers[value]]
        if isinstance(value, Tensor):
            strided = value.layout is torch.strided
            stride = (
                [self._value(step) for step in value.stride()] if strided else str(value.layout)
            )
            shape = [self._value(size) for size in value.shape]
            return ["tensor", str(value.dtype), str(value.device), shape, stride]
        if isinstance(value, SymInt | SymFloat | SymBool):
            return ["symbolic", type(value).__name__, self._expression(value.node.expr)]
        if isinstance(value, tuple | list):
            return ["sequence", *map(self._value, value)]
        if isinstance(value, Mapping):
            return ["mapping", *([key, self._value(value[key])] for key in sorted(value))]
        if value is None or isinstance(value, bool | int | float | complex | str):
            return [type(value).__name__, repr(value)]
        if isinstance(value, _NAMED):
            return ["torch", str(value)]
        raise Unknown

    def _expression(self, expression: sympy.Basic) -> str:
        for symbol in sorted(expression.free_symbols, key=str):
            self._symbols.setdefault(symbol, sympy.Symbol(f"n{len(self._symbols)}", integer=True))
        return str(expression.xreplace(self._symbols))


_PLAIN_MODULES = ("_operator", "math", "torch")
