"""The graph of a file as calls whose cost can be told; nothing of the file is run or imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch

from .._torch.archives import DTYPES_IN_FILES
from .._torch.dispatch import HigherOrderOperator, OpOverload, higher_order_operators
from ..analysis import Amount, Call, Region, TensorSpec
from ._expressions import is_arithmetic

_ATEN = re.compile(r"torch\.ops\.(\w+)\.(\w+)\.(\w+)", re.ASCII)
_HIGHER_ORDER = "torch.ops.higher_order."


def listed_calls(graph: Mapping[str, Any]) -> tuple[Call, ...]:
    """Return the calls in a serialized graph.

    Raises:
        KeyError, TypeError, ValueError: It is no such graph.
    """
    return tuple(_call(graph, node) for node in graph["nodes"])


def listed_tensor(meta: Mapping[str, Any]) -> TensorSpec:
    """Return what a file says of a tensor.

    Raises:
        KeyError, TypeError, ValueError: It says something else.
    """
    device = meta["device"]
    return TensorSpec(
        tuple(listed_amount(size) for size in meta["sizes"]),
        tuple(listed_amount(stride) for stride in meta["strides"]),
        DTYPES_IN_FILES[meta["dtype"]],
        torch.device(device["type"], device["index"] or 0)
        if device["index"] is not None
        else torch.device(device["type"]),
    )


def listed_amount(number: Mapping[str, Any]) -> Amount:
    """Return a size, which may be an expression.

    Raises:
        ValueError: It is an expression that is no arithmetic.
    """
    if "as_int" in number:
        return int(number["as_int"])
    text = str(number["as_expr"]["expr_str"])
    if not is_arithmetic(text):
        raise ValueError("an expression is no arithmetic")
    value = _evaluated(ast.parse(text, mode="eval").body)
    return int(value) if value.is_Integer else value


def _evaluated(node: Any) -> Any:
    """Build an expression whose form is known to be arithmetic; Python evaluates nothing."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.UnaryOp(operand=operand):
            return -_evaluated(operand)
        case ast.Name(id=name):
            return {"oo": sympy.oo, "true": sympy.true}.get(name, sympy.false)
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=name)]):
            return sympy.Symbol(name, integer=True, positive=True)
        case ast.Call(func=ast.Name(id="Float"), args=[ast.Constant(value=digits), *_]):
            return sympy.Float(digits)
        case ast.Call(func=ast.Name(id=name), args=operands):
            return _OPERATIONS.get(name, sympy.Function(name))(*map(_evaluated, operands))
    raise ValueError("an expression is no arithmetic")


def _floor(left: Any, right: Any) -> Any:
    return sympy.floor(left / right)


def _ceiling(left: Any, right: Any) -> Any:
    return sympy.ceiling(left / right)


_OPERATIONS: Mapping[str, Any] = {
    "Add": sympy.Add,
    "CeilDiv": _ceiling,
    "CleanDiv": _floor,
    "FloorDiv": _floor,
    "Integer": sympy.Integer,
    "Max": sympy.Max,
    "Min": sympy.Min,
    "Mod": sympy.Mod,
    "Mul": sympy.Mul,
    "Pow": sympy.Pow,
    "PythonMod": sympy.Mod,
    "Rational": sympy.Rational,
}


def _call(graph: Mapping[str, Any], node: Mapping[str, Any]) -> Call:
    target = _target(node["target"])
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for given in node["inputs"]:
        value = _value(graph, given["arg"])
        if given.get("kind") == 2:
            kwargs[given["name"]] = value
        else:
            args.append(value)
    results = [_value(graph, each) for each in node["outputs"]]
    result = results[0] if len(results) == 1 else tuple(results)
    modules = _modules(str(node["metadata"].get("nn_module_stack", "")))
    return Call(target, tuple(args), kwargs, result, modules)


def _target(written: str) -> Any:
    """Return an operator if it is there already, else its name."""
    if written.startswith(_HIGHER_ORDER):
        name = written.removeprefix(_HIGHER_ORDER)
        found: Any = higher_order_operators.get(name)
        return found if isinstance(found, HigherOrderOperator) else name
    if (named := _ATEN.fullmatch(written)) is None:
        is_arithmetic_of_sizes = written.startswith(("_operator.", "math.", "torch.sym_"))
        return _named(written) if is_arithmetic_of_sizes else written
    namespace, packet, overload = named.groups()
    found = getattr(getattr(getattr(torch.ops, namespace), packet, None), overload, None)
    return found if isinstance(found, OpOverload) else f"{namespace}.{packet}.{overload}"


def _named(written: str) -> Any:
    """Return a function that stands for one that costs nothing."""

    def arithmetic() -> None:
        raise AssertionError("it stands for an operation and is never called")

    arithmetic.__name__ = written.rpartition(".")[2]
    return arithmetic


def _value(graph: Mapping[str, Any], argument: Any) -> Any:
    if isinstance(argument, Sequence) and not isinstance(argument, str):
        return [_value(graph, each) for each in argument]
    if not isinstance(argument, Mapping):
        return argument
    if argument.keys() == {"name"}:
        return _tensor(graph, argument["name"])
    ((kind, value),) = ((key, each) for key, each in argument.items() if key != "graph")
    if kind == "as_tensor":
        return _tensor(graph, value["name"])
    if kind == "as_graph":
        return Region(listed_calls(value["graph"]))
    if kind == "as_operator":
        return _target(value)
    if kind == "as_name":
        sizes = graph["sym_int_values"]
        return listed_amount(sizes[value]) if value in sizes else None
    if kind in ("as_none", "as_scalar_type", "as_layout", "as_memory_format", "as_device"):
        return None
    return _value(graph, value)


def _tensor(graph: Mapping[str, Any], name: str) -> TensorSpec | None:
    meta = graph["tensor_values"].get(name)
    return listed_tensor(meta) if meta is not None else None


def _modules(stack: str) -> tuple[tuple[str, str], ...]:
    """Read `key,path,type;key,path,type`, as torch writes a stack of modules."""
    entries = [entry.split(",") for entry in stack.split(";") if entry.count(",") == 2]
    paths = [path.removeprefix("L['self']").removeprefix("L__self__") for _, path, _ in entries]
    kinds = [kind.rpartition(".")[2] for _, _, kind in entries]
    return tuple((path.lstrip("."), kind) for path, kind in zip(paths, kinds, strict=True))
