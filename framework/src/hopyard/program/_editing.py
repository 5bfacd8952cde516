"""Programs with other state: constants that passes compute, without what these replace."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from torch import Tensor
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    TensorArgument,
)
from torch.fx import Node

from .._torch.fake import FakeTensor
from ..tracing import ValueRecorder, fake_mode_for
from ._operands import storage_of, written_operands
from ._program import Program

_STATE = (InputKind.PARAMETER, InputKind.BUFFER)
_BEFORE_INPUTS = (*_STATE, InputKind.CONSTANT_TENSOR)


class StateEditor:
    """Gives a program other constants while a pass edits its graph.

    ::

        editor = StateEditor(program)
        node.replace_all_uses_with(editor.add(weight * 2))
        return editor.finish()

    Args:
        program: The program. Its graph is edited in place, so it must be the pass's own, as that of
            the program that a program pass is given.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._graph = program.graph_module.graph
        self._specs = list(program.signature.input_specs)
        self._constants = dict(program.constants)
        self._state = dict(program.state)
        self._placeholders = {node.name: node for node in self._graph.find_nodes(op="placeholder")}
        values = [node.meta.get("val") for node in self._graph.nodes]
        self._fake_mode = fake_mode_for([value for value in values if isinstance(value, Tensor)])
        self._recorder = ValueRecorder(self._fake_mode)

    def fixed(self, *, state: bool) -> dict[Node, Tensor]:
        """Return the tensors that no call of the program changes, by the nodes that stand for them.

        What shares memory with something that the program writes is left out, and so is what is no
        ordinary tensor with data.

        Args:
            state: Whether parameters and buffers count as well as constants.
        """
        written = written_operands(self._program.signature)
        tensors = {spec.arg.name: self._tensor(spec) for spec in self._specs}
        storages = {storage_of(tensors.get(name)) for name in written}
        kinds = _BEFORE_INPUTS if state else (InputKind.CONSTANT_TENSOR,)
        return {
            self._placeholders[spec.arg.name]: tensor
            for spec in self._specs
            if spec.kind in kinds and spec.arg.name not in written
            if isinstance(tensor := tensors[spec.arg.name], Tensor)
            if type(tensor) is not FakeTensor and storage_of(tensor) not in {*storages, None}
            if state or not tensor.requires_grad
        }

    def add(self, tensor: Tensor) -> Node:
        """Add a constant and return the node that stands for it."""
        number = 0
        while f"folded_{number}" in self._constants or f"c_folded_{number}" in self._placeholders:
            number += 1
        target = f"folded_{number}"
        position = sum(spec.kind in (*_BEFORE_INPUTS, InputKind.CUSTOM_OBJ) for spec in self._specs)
        following = [spec.arg.name for spec in self._specs[position:]]
        first = self._placeholders[following[0]] if following else self._first_computation()
        with self._graph.inserting_before(first):
            node = self._graph.placeholder(f"c_{target}")
        node.target = node.name
        value = self._fake_mode.from_tensor(tensor.detach(), static_shapes=True)
        self._recorder.annotate(node, value)
        spec = InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(node.name), target)
        self._specs.insert(position, spec)
        self._constants[target] = tensor.detach()
        self._placeholders[node.name] = node
        return node

    def drop_unused(self, nodes: Collection[Node]) -> None:
        """Remove those of some placeholders of state and constants that nothing uses any more."""
        kept = []
        for spec in self._specs:
            node = self._placeholders[spec.arg.name]
            if node not in nodes or node.users or spec.kind not in _BEFORE_INPUTS:
                kept.append(spec)
                continue
            self._graph.erase_node(node)
            (self._state if spec.kind in _STATE else self._constants).pop(str(spec.target), None)
        self._specs = kept

    def finish(self) -> Program:
        """Return the program."""
        self._program.graph_module.recompile()
        signature = ExportGraphSignature(self._specs, list(self._program.signature.output_specs))
        return self._program.replaced(
            signature=signature, state=self._state, constants=self._constants
        )

    def _tensor(self, spec: InputSpec) -> Any:
        if spec.kind in _STATE:
            return self._state.get(str(spec.target))
        return self._constants.get(str(spec.target)) if spec.target is not None else None

    def _first_computation(self) -> Node:
        nodes: Iterable[Node] = self._graph.nodes
        return next(node for node in nodes if node.op != "placeholder")
