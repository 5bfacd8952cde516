"""What a partition knows of the program around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torch.export.graph_signature import InputKind
from torch.fx import GraphModule
from torch.nn import Parameter

from .._graph_copy import copy_graph_module
from ..program import Program
from ..program._operands import MUTATIONS

STATE: Final = "state"
"""Key of the metadata of a placeholder whose tensor is the same in every call: the tensor."""

RANGES: Final = "range_constraints"
"""Key of the metadata of a graph module: least and greatest values of its symbols."""

_PLAIN = (Tensor, Parameter)
_KINDS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


def with_state(program: Program) -> GraphModule:
    """Return a copy of a program's graph whose placeholders know their tensors.

    A parameter, or a buffer or constant that no call of the program writes, is `meta["state"]` of
    its placeholder, and the ranges of symbols are `meta["range_constraints"]` of the graph module.
    What :func:`outline` makes of partitions of it has both as well.
    """
    graph_module = copy_graph_module(program.graph_module)
    graph_module.meta[RANGES] = program.range_constraints
    state = constant_state(program)
    for node in graph_module.graph.find_nodes(op="placeholder"):
        if node.name in state:
            node.meta[STATE] = state[node.name]
    return graph_module


def without_state(graph_module: GraphModule) -> GraphModule:
    """Remove again what :func:`with_state` added."""
    graph_module.meta.pop(RANGES, None)
    for node in graph_module.graph.find_nodes(op="placeholder"):
        node.meta.pop(STATE, None)
    return graph_module


def constant_state(program: Program) -> Mapping[str, Tensor]:
    """Return the tensors that no call of a program changes, by the placeholder's name."""
    signature = program.signature
    tensors: dict[str, Any] = {**program.constants, **program.state}
    written = [spec.target for spec in signature.output_specs if spec.kind in MUTATIONS]
    changing = {_memory(tensors[str(name)]) for name in written if name in tensors}
    found = {
        spec.arg.name: tensors[str(spec.target)]
        for spec in signature.input_specs
        if spec.kind in _KINDS
    }
    return {
        name: tensor
        for name, tensor in found.items()
        if type(tensor) in _PLAIN and _memory(tensor) not in changing
    }


def _memory(tensor: Any) -> Any:
    strided = isinstance(tensor, Tensor) and tensor.layout is torch.strided
    return tensor.untyped_storage()._cdata if strided else id(tensor)
