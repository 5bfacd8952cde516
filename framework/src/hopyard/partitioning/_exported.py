"""Partitions as programs of `torch.export`, which is what compilers take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import SymBool, SymFloat, SymInt, Tensor
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ConstantArgument,
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    SymBoolArgument,
    SymFloatArgument,
    SymIntArgument,
    TensorArgument,
)
from torch.fx import Graph, GraphModule, Node
from torch.nn import Module, Parameter

from .._torch.graphs import make_graph_module
from .._torch.pytree import tree_flatten
from ..errors import ProgramError
from ._state import RANGES, STATE

_SYMBOLIC = {SymInt: SymIntArgument, SymFloat: SymFloatArgument, SymBool: SymBoolArgument}


def export_partition(
    partition: GraphModule, state: Mapping[str, Tensor] | None = None
) -> ExportedProgram:
    """Return a partition as an exported program with a graph of its own and shared tensors.

    Placeholders with state become parameters and buffers under their own names; the others are the
    inputs, in order.

    Args:
        partition: The partition.
        state: The tensors of placeholders by name; by default those with `meta["state"]`.

    Raises:
        ProgramError: torch's verifier refuses it.
    """
    graph_module = _with_state_first(partition, state)
    placeholders = graph_module.graph.find_nodes(op="placeholder")
    tensors = {node.name: node.meta[STATE] for node in placeholders if STATE in node.meta}
    inputs = [_input(node) for node in placeholders]
    returned: Any = graph_module.graph.output_node().args[0]
    outputs = [_argument(value) for value in returned]
    users = [spec for spec in inputs if spec.kind is InputKind.USER_INPUT]
    in_spec = tree_flatten((tuple(range(len(users))), {}))[1]
    out_spec = tree_flatten(tuple(range(len(outputs))))[1]
    entry = ModuleCallSignature(inputs=[], outputs=[], in_spec=in_spec, out_spec=out_spec)
    try:
        return ExportedProgram(
            root=graph_module,
            graph=graph_module.graph,
            graph_signature=ExportGraphSignature(
                inputs, [OutputSpec(OutputKind.USER_OUTPUT, each, None) for each in outputs]
            ),
            state_dict=tensors,
            range_constraints=dict(partition.meta.get(RANGES, {})),
            module_call_graph=[ModuleCallEntry("", entry)],
            example_inputs=_examples(node for node in placeholders if STATE not in node.meta),
        )
    except Exception as error:
        raise ProgramError(
            f"torch.export does not accept the partition: {error}", stage="export_partition"
        ) from error


def _with_state_first(partition: GraphModule, state: Mapping[str, Tensor] | None) -> GraphModule:
    graph = Graph()
    copies: dict[Node, Node] = {}
    tensors = {
        node: node.meta.get(STATE) if state is None else state.get(node.name)
        for node in partition.graph.find_nodes(op="placeholder")
    }
    for node in sorted(tensors, key=lambda node: _rank(tensors[node])):
        copies[node] = graph.placeholder(node.name)
        copies[node].target = copies[node].name
        copies[node].meta = {key: value for key, value in node.meta.items() if key != STATE}
        if tensors[node] is not None:
            copies[node].meta[STATE] = tensors[node]
    result = graph.graph_copy(partition.graph, copies)
    graph.output(result)
    return make_graph_module(_attributes(partition), graph, "GraphModule")


def _attributes(partition: GraphModule) -> Module:
    root = Module()
    for node in partition.graph.find_nodes(op="get_attr"):
        setattr(root, str(node.target), getattr(partition, str(node.target)))
    return root


def _examples(inputs: Iterable[Node]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Return inputs of zeros, which torch's compilers ask for; None if no sizes are known."""
    found = []
    for node in inputs:
        value = node.meta.get("val")
        if isinstance(value, Tensor):
            shape, stride = (tuple(map(_hint, each)) for each in (value.shape, value.stride()))
            if None in shape or None in stride:
                return None
            strided: Any = (shape, stride)
            value = torch.empty_strided(*strided, dtype=value.dtype, device=value.device).zero_()
        found.append(_hint(value))
    return tuple(found), {}


def _hint(value: Any) -> Any:
    return value.node.hint if isinstance(value, SymInt) else value


def _rank(state: Tensor | None) -> int:
    """Return where a placeholder stands: torch wants parameters before buffers before inputs."""
    return 2 if state is None else not isinstance(state, Parameter)


def _input(node: Node) -> InputSpec:
    state = node.meta.get(STATE)
    if state is None:
        return InputSpec(InputKind.USER_INPUT, _argument(node), None)
    if isinstance(state, Parameter):
        return InputSpec(InputKind.PARAMETER, _argument(node), node.name)
    return InputSpec(InputKind.BUFFER, _argument(node), node.name, persistent=True)


def _argument(value: Any) -> Any:
    if not isinstance(value, Node):
        return ConstantArgument("", value)
    described = value.meta.get("val")
    if isinstance(described, Tensor):
        return TensorArgument(value.name)
    symbolic = _SYMBOLIC.get(type(described))
    return symbolic(value.name) if symbolic else ConstantArgument(value.name, described)
