"""Graphs as calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node
from torch.nn import Module

from .._torch.dispatch import OpOverload
from .._torch.pytree import tree_map_only
from ._calls import Call, Region
from ._cost import CallCost, cost_of_call, cost_of_calls
from ._formulas import Formula
from ._report import CostReport
from ._values import specified

if TYPE_CHECKING:
    from ..program import Program

Costed: TypeAlias = "Program | ExportedProgram | GraphModule"
"""What a cost can be asked of."""


def cost_of(costed: Costed, formulas: Mapping[Any, Formula] | None = None) -> CostReport:
    """Return what a run of a program or of a graph costs.

    Sizes are those in the metadata of the nodes: a program's, an export's, or what `make_fx`
    recorded. Graphs of gradients are counted as any other.

    Args:
        costed: A program, an exported program or a graph module.
        formulas: Formulas that go before torch's, by operator; see
            :data:`hopyard.analysis.Formula`.
    """
    return CostReport(cost_of_calls(calls_of(costed), formulas))


def cost_of_node(node: Node, formulas: Mapping[Any, Formula] | None = None) -> CallCost:
    """Return what a node of a graph costs, with the regions that it runs."""
    return cost_of_call(_call(node, _owner(node), ()), formulas)


def calls_of(costed: Costed) -> tuple[Call, ...]:
    """Return the calls in a graph, in order; those in regions are in the operands of others."""
    graph_module = costed if isinstance(costed, GraphModule) else costed.graph_module
    return _calls(graph_module, ())


def _calls(graph_module: GraphModule, outside: tuple[tuple[str, str], ...]) -> tuple[Call, ...]:
    called = ("call_function", "call_module", "call_method")
    nodes = [node for node in graph_module.graph.nodes if node.op in called]
    return tuple(_call(node, graph_module, outside) for node in nodes)


def _owner(node: Node) -> Module:
    graph: Graph = node.graph
    return graph.owning_module or Module()


def _call(node: Node, owner: Module, outside: tuple[tuple[str, str], ...]) -> Call:
    modules = _modules(node) or outside
    target: Any = node.target
    if node.op == "call_method":
        return Call(f"Tensor.{target}", modules=modules, node=node, problem="it is a method")
    args: tuple[Any, ...] = tuple(node.args)
    if node.op == "call_module":
        called = _attribute(owner, str(target))
        if not isinstance(called, GraphModule):
            name = type(called).__name__
            return Call(name, modules=modules, node=node, problem="it is a module without a graph")
        args, target = (Region(_calls(called, modules)), *args), "wrap"
    problem = ""

    def value_of(operand: Node) -> Any:
        nonlocal problem
        if operand.op == "get_attr":
            value = _attribute(owner, str(operand.target))
            if isinstance(value, Module):
                return _region(value, modules)
            if "val" not in operand.meta:
                return specified(value)
        if "val" not in operand.meta:
            problem = f"the sizes of its operand {operand.name} are not known"
            return None
        return specified(operand.meta["val"])

    try:
        operands, options = tree_map_only(Node, value_of, (args, dict(node.kwargs)))
        result = specified(node.meta.get("val"))
        if "val" not in node.meta and isinstance(target, OpOverload) and target._schema.returns:
            problem = problem or "the sizes of its results are not known"
    except TypeError as error:
        return Call(target, modules=modules, node=node, problem=str(error))
    return Call(target, operands, options, result, modules, node, problem)


def _region(module: Module, modules: tuple[tuple[str, str], ...]) -> Any:
    """Return the graph that a module stands for; a lowered one keeps what it was made from."""
    original = getattr(module, "original_module", None)
    stands_for = module if original is None else original
    graph_module = getattr(stands_for, "graph_module", stands_for)
    if not isinstance(graph_module, GraphModule):
        return None
    return Region(_calls(graph_module, modules), is_lowered=original is not None)


def _modules(node: Node) -> tuple[tuple[str, str], ...]:
    """Return path and type of the modules around a node; those of gradients are of the forward."""
    stack = node.meta.get("nn_module_stack") or node.meta.get("fwd_nn_module_stack") or {}
    return tuple((_path(str(path)), _type_name(kind)) for path, kind in stack.values())


def _path(written: str) -> str:
    """Return a qualified name; torch writes the captured module itself in several ways."""
    for root in ("L['self']", "L__self__"):
        written = written.removeprefix(root)
    return written.lstrip(".")


def _type_name(kind: Any) -> str:
    name = kind if isinstance(kind, str) else kind.__qualname__
    return str(name).rpartition(".")[2]


def _attribute(module: Module, target: str) -> Any:
    value: Any = module
    for name in target.split("."):
        value = getattr(value, name)
    return value
