"""Programs as `torch.export` programs, and back."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch import SymInt, Tensor
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import ArgumentSpec, CustomObjArgument, InputKind
from torch.fx import GraphModule

from .._graph_copy import copy_graph_module
from .._torch.pytree import tree_unflatten
from ..errors import ProgramError
from ._calling import CallingConvention, InputLeaf, ObjectType, TensorType
from ._manifest import Manifest
from ._ranges import from_ranges
from ._sizes import free_symbols

if TYPE_CHECKING:
    from ._program import Program

_CONVENTION = "hopyard_convention"
"""Where a graph module's metadata keeps what an exported program has no place for."""


def to_exported_program(program: Program) -> ExportedProgram:
    """Return `program` as an exported program with a graph of its own and shared tensors.

    Raises:
        ProgramError: torch's verifier refuses it.
    """
    graph_module = copy_graph_module(program.graph_module)
    graph_module.meta[_CONVENTION] = program.convention
    # Filled input and output lists of the root entry make later lowerings fail.
    signature = ModuleCallSignature(
        inputs=[],
        outputs=[],
        in_spec=program.convention.in_spec,
        out_spec=program.convention.out_spec,
    )
    transient = {
        str(spec.target)
        for spec in program.signature.input_specs
        if spec.kind is InputKind.BUFFER and not spec.persistent
    }
    persistent = {name: value for name, value in program.state.items() if name not in transient}
    constants = {name: program.state[name] for name in transient}
    try:
        return ExportedProgram(
            root=graph_module,
            graph=graph_module.graph,
            graph_signature=program.signature,
            state_dict=persistent,
            range_constraints=dict(program.range_constraints),
            module_call_graph=[ModuleCallEntry("", signature)],
            constants={**program.constants, **constants},
            example_inputs=_example_inputs(program),
        )
    except Exception as error:
        raise ProgramError(
            f"torch.export does not accept the program: {error}",
            hint="verify the program's graph after each pass (hopyard.verify)",
            stage="to_exported_program",
        ) from error


def _example_inputs(program: Program) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Return inputs of zeros, which torch's compilers ask for; None if some cannot be made."""
    placeholders = {node.name: node for node in program.graph.find_nodes(op="placeholder")}
    leaves: list[Any] = []
    for spec in program.signature.input_specs:
        if spec.kind is not InputKind.USER_INPUT:
            continue
        value = placeholders[spec.arg.name].meta["val"]
        if isinstance(value, Tensor):
            shape: list[Any] = [_hint(each) for each in value.shape]
            if None in shape:
                return None
            value = torch.zeros(shape, dtype=value.dtype, device=value.device)
        elif isinstance(value, CustomObjArgument):
            return None
        leaves.append(value)
    args, kwargs = tree_unflatten(leaves, program.convention.in_spec)
    return args, kwargs


def _hint(size: int | SymInt) -> Any:
    return size.node.hint if isinstance(size, SymInt) else size


def from_exported_program(
    exported: ExportedProgram, manifest: Manifest, *, copy: bool = True
) -> Program:
    """Return an exported program as a program that shares its tensors.

    Args:
        exported: The exported program.
        manifest: Versions of what makes the program.
        copy: Whether to leave its graph alone, since somebody else has it.

    Raises:
        ProgramError: It has effect tokens.
    """
    from ._program import Program

    graph_module: GraphModule = exported.graph_module
    if copy:
        graph_module = copy_graph_module(graph_module)
    signature = exported.graph_signature
    known = (
        InputKind.PARAMETER,
        InputKind.BUFFER,
        InputKind.CONSTANT_TENSOR,
        InputKind.CUSTOM_OBJ,
        InputKind.USER_INPUT,
    )
    for spec in signature.input_specs:
        if spec.kind not in known:
            raise ProgramError(
                f"the exported program has an input of kind {spec.kind.name}",
                hint="export it without effect tokens",
                stage="from_exported_program",
            )
    placeholders = {node.name: node for node in graph_module.graph.find_nodes(op="placeholder")}
    leaves = []
    for spec in signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            value = placeholders[spec.arg.name].meta["val"]
            expected = _expected(spec.arg, value)
            leaves.append(InputLeaf(spec.arg.name, spec.arg.name, expected))
    found = CallingConvention(
        tuple(leaves), exported.call_spec.in_spec, exported.call_spec.out_spec
    )
    sizes = [leaf.expected.shape for leaf in leaves if isinstance(leaf.expected, TensorType)]
    used = {symbol for shape in sizes for size in shape for symbol in free_symbols(size)}
    found = dataclasses.replace(found, symbols=from_ranges(exported.range_constraints, used))
    convention = _remembered(graph_module.meta.pop(_CONVENTION, None), found)
    tensors = {**exported.constants, **exported.state_dict}
    state = {
        str(spec.target): tensors[str(spec.target)]
        for spec in signature.input_specs
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER)
    }
    constants = {
        str(spec.target): exported.constants[str(spec.target)]
        for spec in signature.input_specs
        if spec.kind in (InputKind.CONSTANT_TENSOR, InputKind.CUSTOM_OBJ)
    }
    examples = [
        spec.arg.name
        for spec in signature.input_specs
        if spec.kind is InputKind.USER_INPUT and isinstance(spec.arg, CustomObjArgument)
    ]
    constants |= {name: exported.constants[name] for name in examples}
    return Program(
        graph_module,
        signature,
        state=state,
        constants=constants,
        convention=convention,
        range_constraints=exported.range_constraints,
        manifest=manifest,
    )


def _expected(argument: ArgumentSpec, value: Any) -> Any:
    if isinstance(argument, CustomObjArgument):
        return ObjectType(argument.class_fqn)
    return TensorType.of(value) if hasattr(value, "dtype") else argument.value  # type: ignore[union-attr]


def _remembered(
    convention: CallingConvention | None, found: CallingConvention
) -> CallingConvention:
    """Return the convention that a program had before it was exported, if it still has it."""
    if convention is None:
        return found
    is_same = (convention.in_spec, convention.out_spec) == (found.in_spec, found.out_spec)
    expected = [[leaf.expected for leaf in each.inputs] for each in (convention, found)]
    return convention if is_same and expected[0] == expected[1] else found
