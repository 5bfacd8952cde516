"""A captured program."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor
from torch.export.graph_signature import (
    ConstantArgument,
    ExportGraphSignature,
    InputKind,
    OutputKind,
    OutputSpec,
)
from torch.fx import Graph, GraphModule, Node

from hopyard_hookspecs import Finding, Report

from .._graph_copy import copy_graph_module
from ..errors import InputError, ProgramError, VerificationError
from ._calling import CallingConvention, TensorType
from ._manifest import Manifest
from ._operands import (
    MUTATIONS,
    apart_from_history,
    operands_of,
    shared_write,
    written_operands,
)

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from ._ranges import RangeConstraints
    from ._sizes import Bindings


class Program:
    """A graph with its calling convention and its state.

    Call it as the captured function was called. The graph itself is pure: parameters, buffers and
    constants are placeholders before the user's inputs, and what the function changed in place is
    returned before its results; calling the program writes the changes back.

    A program is not changed once it exists: passes make new programs, which share parameters with
    the old. Two programs are equal if they compute the same from the same parameters.

    Attributes:
        graph_module: The graph. To edit it, copy it and use :meth:`with_graph`.
        signature: What each placeholder and each output stands for.
        state: Parameters and buffers by qualified name; the tensors of the captured module itself,
            and parameters that the program took from around it.
        constants: Other tensors and objects that the program reads, by name; and the objects among
            the example inputs, by placeholder.
        convention: The structure of arguments and results.
        range_constraints: Least and greatest values of the symbols in the graph's metadata.
        findings: What safeguards reported without refusing the capture.
        reports: What modes reported about the graph as it was captured, by the mode's name.
        manifest: Versions of what made the program.
    """

    def __init__(
        self,
        graph_module: GraphModule,
        signature: ExportGraphSignature,
        *,
        state: Mapping[str, Tensor],
        constants: Mapping[str, Any],
        convention: CallingConvention,
        range_constraints: RangeConstraints | None = None,
        findings: Sequence[Finding] = (),
        reports: Mapping[str, Report] | None = None,
        manifest: Manifest,
    ) -> None:
        self.graph_module = graph_module
        self.signature = signature
        self.state = dict(state)
        self.constants = dict(constants)
        self.convention = convention
        self.range_constraints = dict(range_constraints or {})
        self.findings = tuple(findings)
        self.reports = dict(reports or {})
        self.manifest = manifest
        self._written = frozenset(written_operands(signature))
        self._inputs = tuple(
            spec.arg.name for spec in signature.input_specs if spec.kind is InputKind.USER_INPUT
        )

    @property
    def graph(self) -> Graph:
        """The fx graph."""
        return self.graph_module.graph

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program.

        Raises:
            InputError: The arguments are not of the kind that was captured.
        """
        leaves, bindings = self.convention.flatten(args, kwargs)
        operands = operands_of(self.signature, {**self.state, **self.constants}, leaves)
        self._refuse_shared_writes(operands)
        copies = self._laid_out(operands, bindings)
        readable = apart_from_history(self._written, {**operands, **copies})
        outputs = self.graph_module(*readable.values())
        specs = self.signature.output_specs
        results = []
        for spec, value in zip(specs, outputs, strict=True):
            if spec.kind in MUTATIONS:
                self._write_back(spec, value, operands)
            else:
                results.append(value)
        for alias in self.convention.aliases:
            is_copy = alias.operand in self._written or alias.operand in copies
            # What carries the gradients of a change must be returned as the graph computed it.
            carries = alias.operand in self._written and results[alias.result].requires_grad
            if is_copy and not carries:
                results[alias.result] = alias.of(operands[alias.operand], bindings)
        return self.convention.unflatten(results)

    def with_graph(self, graph_module: GraphModule) -> Program:
        """Return a program with another graph, the same calling convention and the same state.

        Raises:
            VerificationError: The graph takes other inputs or returns another number of outputs.
        """
        placeholders = [node.name for node in graph_module.graph.find_nodes(op="placeholder")]
        expected = [spec.arg.name for spec in self.signature.input_specs]
        if placeholders != expected:
            raise VerificationError(
                f"the graph takes the inputs {placeholders} instead of {expected}",
                hint="a pass must leave placeholders as they are",
                stage="with_graph",
            )
        signature = _resigned(self.signature, graph_module)
        return self.replaced(graph_module=graph_module, signature=signature)

    def replaced(self, **parts: Any) -> Program:
        """Return a program of other parts, by the names that the constructor gives them.

        Unlike :meth:`with_graph`, it does not check that they fit together.
        """
        kept = {
            "graph_module": self.graph_module,
            "signature": self.signature,
            "state": self.state,
            "constants": self.constants,
            "convention": self.convention,
            "range_constraints": self.range_constraints,
            "findings": self.findings,
            "reports": self.reports,
            "manifest": self.manifest,
        }
        return Program(**{**kept, **parts})

    @property
    def result_count(self) -> int:
        """How many leaves the result has."""
        return sum(spec.kind not in MUTATIONS for spec in self.signature.output_specs)

    def print_readable(self) -> str:
        """Return the graph as Python code with shapes and source lines."""
        text = self.graph_module.print_readable(
            print_output=False, include_stride=False, colored=False
        )
        return str(text)

    def to_exported_program(self) -> ExportedProgram:
        """Return the program as a `torch.export.ExportedProgram` that shares its tensors.

        Raises:
            ProgramError: torch's verifier refuses it.
        """
        from ._export import to_exported_program

        return to_exported_program(self)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the program as a `.pt2` file, whole or not at all.

        Raises:
            ArtifactError: The file cannot be written, or the graph holds what cannot be saved.
        """
        from ._artifact import save_program

        save_program(self, path)

    @property
    def guards(self) -> tuple[str, ...]:
        """What a call is checked for, one condition each, as a user would write it."""
        return self.convention.guards()

    def __eq__(self, other: object) -> bool:
        """Return whether both compute the same from the same; values of state do not count."""
        if not isinstance(other, Program):
            return NotImplemented
        return self is other or self._structure == other._structure

    def __hash__(self) -> int:
        return hash(self._structure)

    @cached_property
    def _structure(self) -> Hashable:
        from ._structure import structure_of

        return structure_of(self)

    def __copy__(self) -> Program:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        """Return an independent program: its calls change other tensors than this one's."""
        state, constants = copy.deepcopy((self.state, self.constants), memo)
        graph_module = copy_graph_module(self.graph_module)
        return self.replaced(graph_module=graph_module, state=state, constants=constants)

    def __reduce__(self) -> NoReturn:
        raise ProgramError(
            "a program is not pickled, since loading a pickle runs its author's code",
            hint="use program.save(path) and hopyard.load(path)",
            stage="program",
        )

    def __repr__(self) -> str:
        return (
            f"<Program of {len(self.graph.nodes)} nodes, {len(self.convention.inputs)} inputs, "
            f"{len(self.state)} parameters and buffers>"
        )

    def _laid_out(self, operands: Mapping[str, Any], bindings: Bindings) -> dict[str, Any]:
        """Return copies of the inputs whose strides are not those that the graph was made for.

        Raises:
            InputError: The program returns a view of such an input, which none of a copy would be.
        """
        copies = {
            name: leaf.expected.laid_out(operands[name], bindings)
            for name, leaf in zip(self._inputs, self.convention.inputs, strict=True)
            if isinstance(leaf.expected, TensorType)
            and not leaf.expected.is_laid_out_like(operands[name], bindings)
        }
        for alias in self.convention.aliases:
            if alias.view is not None and alias.operand in copies:
                raise InputError(
                    f"the program returns a view of {self._name_of(alias.operand)}, which was "
                    f"captured with the strides {copies[alias.operand].stride()}, "
                    f"but has {operands[alias.operand].stride()}",
                    hint="pass a tensor that is laid out like the example, "
                    "or capture with one like this",
                    stage="program",
                )
        return copies

    def _refuse_shared_writes(self, operands: Mapping[str, Any]) -> None:
        shared = shared_write(self._written, operands)
        if shared is None:
            return
        written, other = (self._name_of(operand) for operand in shared)
        raise InputError(
            f"the program changes {written} in place, which shares memory with {other}",
            hint="pass a clone of one of them",
            stage="program",
        )

    def _name_of(self, operand: str) -> str:
        paths = iter(self.convention.inputs)
        for spec in self.signature.input_specs:
            name = next(paths).path if spec.kind is InputKind.USER_INPUT else str(spec.target)
            if spec.arg.name == operand:
                return name
        return operand

    def _write_back(self, spec: OutputSpec, value: Tensor, operands: Mapping[str, Any]) -> None:
        target = str(spec.target)
        into_input = spec.kind is OutputKind.USER_INPUT_MUTATION
        destination: Tensor = operands[target] if into_input else self.state[target]
        with torch.no_grad():
            destination.copy_(value)


def _resigned(signature: ExportGraphSignature, graph_module: GraphModule) -> ExportGraphSignature:
    """Return the signature with the names that the outputs have in another graph."""
    outputs = graph_module.graph.output_node().args[0]
    if not isinstance(outputs, (tuple, list)) or len(outputs) != len(signature.output_specs):
        count = len(outputs) if isinstance(outputs, (tuple, list)) else "no tuple of"
        raise _other_outputs(f"{count} values instead of {len(signature.output_specs)}")
    specs = []
    for spec, value in zip(signature.output_specs, outputs, strict=True):
        argument = spec.arg
        expected = argument.value if isinstance(argument, ConstantArgument) else "a node"
        if isinstance(value, Node) and not isinstance(argument, ConstantArgument):
            argument = dataclasses.replace(argument, name=value.name)
        elif isinstance(value, Node) or repr(value) != repr(expected):
            raise _other_outputs(f"{value!r} instead of {expected}")
        specs.append(OutputSpec(spec.kind, argument, spec.target))
    return ExportGraphSignature(list(signature.input_specs), specs)


def _other_outputs(what: str) -> VerificationError:
    return VerificationError(
        f"the graph returns {what}",
        hint="a pass must leave the outputs as many, of the kind and in the order they were",
        stage="with_graph",
    )
