"""Whether a graph is well-formed, holds only what a graph may hold, and has its metadata."""

from __future__ import annotations

import builtins
from types import BuiltinFunctionType
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from hopyard._torch.dispatch import HigherOrderOperator, OpOverload
from hopyard.errors import VerificationError
from hopyard.tracing import node_location

from ._graphs import attribute

STAGE = "verify"

_NUMBER_MODULES = ("_operator", "math")
_NUMBER_FUNCTIONS = {
    *(getattr(builtins, name) for name in ("abs", "divmod", "max", "min", "pow", "round", "sum")),
    *(getattr(torch, name) for name in dir(torch) if name.startswith("sym_")),
}


def check_structure(path: str, graph_module: GraphModule) -> None:
    """Check one graph, without the bodies of its regions.

    Raises:
        VerificationError: Something is wrong; the message names the node.
    """
    nodes = list(graph_module.graph.nodes)
    _check_order(path, nodes)
    for node in nodes:
        _check_target(path, graph_module, node)
    _lint(path, graph_module)
    for node in nodes:
        if "val" not in node.meta and _needs_value(graph_module, node):
            raise unsound(
                path,
                node,
                "has no meta['val']",
                "copy the metadata of the node it replaces, or compute it anew",
            )


def unsound(path: str, node: Node, problem: str, hint: str = "") -> VerificationError:
    """Return the error that says what is wrong with a node."""
    kind = f" ({node.target})" if node.op == "call_function" else ""
    where = f" of region {path!r}" if path else ""
    return VerificationError(
        f"node {node.name!r}{where}{kind} {problem}",
        hint=hint,
        stage=STAGE,
        location=node_location(node),
        node=node.name,
    )


def _check_order(path: str, nodes: list[Node]) -> None:
    outputs = [node for node in nodes if node.op == "output"]
    if len(outputs) != 1:
        where = f"region {path!r}" if path else "the graph"
        raise VerificationError(f"{where} has {len(outputs)} outputs, not one", stage=STAGE)
    if len(outputs[0].args) != 1:
        raise unsound(path, outputs[0], "is an output without a value")
    if nodes[-1] is not outputs[0]:
        raise unsound(path, nodes[-1], "comes after the output")
    computing = False
    for node in nodes:
        if node.op != "placeholder":
            computing = True
        elif computing:
            raise unsound(path, node, "is an input that does not come first")


def _check_target(path: str, graph_module: GraphModule, node: Node) -> None:
    if node.op in ("call_method", "call_module"):
        raise unsound(
            path,
            node,
            f"is a {node.op}",
            "a captured graph calls operators only, such as torch.ops.aten.add.Tensor",
        )
    if node.op == "call_function" and not _is_allowed(node.target):
        raise unsound(
            path,
            node,
            "calls what is neither an operator nor a function of numbers",
            "call an operator overload, such as torch.ops.aten.add.Tensor",
        )
    if node.op == "get_attr":
        try:
            attribute(graph_module, str(node.target))
        except AttributeError as cause:
            raise unsound(
                path, node, f"reads {node.target!r}, which the graph module does not have"
            ) from cause


def _is_allowed(target: Any) -> bool:
    if isinstance(target, (OpOverload, HigherOrderOperator)):
        return True
    if isinstance(target, BuiltinFunctionType) and target.__module__ in _NUMBER_MODULES:
        return True
    return target in _NUMBER_FUNCTIONS


def _lint(path: str, graph_module: GraphModule) -> None:
    try:
        graph_module.graph.lint()
    except (RuntimeError, ValueError) as cause:
        # torch appends the whole graph to what is wrong with it.
        problem = str(cause).partition("\n")[0]
        where = f"in region {path!r}: " if path else ""
        raise VerificationError(f"{where}{problem}", stage=STAGE) from cause


def _needs_value(graph_module: GraphModule, node: Node) -> bool:
    """Say whether a node without `val` is wrong.

    Tracers leave it out where there is no tensor: at inputs that are plain numbers, which the
    graph does not use, and at results that are None.
    """
    if node.op == "get_attr":
        return isinstance(attribute(graph_module, str(node.target)), Tensor)
    if node.op == "call_function" and isinstance(node.target, OpOverload):
        return bool(node.target._schema.returns)
    return node.op in ("placeholder", "call_function") and bool(node.users)
