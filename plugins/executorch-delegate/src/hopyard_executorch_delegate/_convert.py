"""Delegates as ExecuTorch has them, and back.

ExecuTorch's delegates own the state that is part of their bytes, where ours are given it in each
call. So converting drops such operands, and with them state that nothing else reads. What
ExecuTorch has no place for travels in the metadata of its lowered modules.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    TensorArgument,
)
from torch.fx import GraphModule, Node
from torch.nn import Parameter

from hopyard import Program, Session
from hopyard.errors import ProgramError
from hopyard.partitioning import STATE, copy_graph_module, export_partition
from hopyard_hookspecs import Lowered

from ._executorch import ALIGNMENT, RUNTIME, require
from ._inline import inline_regions
from ._lowered_module import LoweredModule, call_delegate

if TYPE_CHECKING:
    from hopyard_hookspecs import BackendImplementation

aten = torch.ops.aten

_ORIGIN = "hopyard"
_SIGNATURE = "hopyard_inputs"
_STATE_KINDS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
_DEFAULT_ALIGNMENT = 16


def convert_to_executorch(program: Program) -> ExportedProgram:
    """Return a program as an exported one whose delegates are ExecuTorch's.

    Tensors are shared; regions that only run their bodies are taken apart.

    Raises:
        UsageError: ExecuTorch is not installed.
        ProgramError: The program holds an operator that ExecuTorch cannot have, or is refused by
            torch's verifier.
    """
    require("a program of ExecuTorch")
    program = inline_regions(program)
    graph_module = copy_graph_module(program.graph_module)
    specs = {spec.arg.name: spec for spec in program.signature.input_specs}
    tensors = {**program.constants, **program.state}
    for node in graph_module.graph.find_nodes(op="call_function", target=call_delegate):
        _to_theirs(node, graph_module, specs, tensors)
    graph_module.meta[_SIGNATURE] = list(program.signature.input_specs)
    return _without_unused(program, graph_module).to_exported_program()


def from_executorch(exported: ExportedProgram, session: Session) -> Program:
    """Return an exported program with ExecuTorch's delegates as a program with ours.

    State that only delegates had is state of the program again.

    Args:
        exported: What :func:`convert_to_executorch` returned, or what ExecuTorch lowered itself.
        session: Where backends are looked up.

    Raises:
        UsageError: ExecuTorch is not installed.
        UnknownNameError: There is no backend of a delegate's name.
    """
    require("a program of ExecuTorch")
    from executorch.exir.delegate import executorch_call_delegate

    program = session.from_exported_program(exported)
    graph_module = program.graph_module
    parts = _Parts(
        list(program.signature.input_specs), dict(program.state), dict(program.constants)
    )
    for node in graph_module.graph.find_nodes(op="call_function", target=executorch_call_delegate):
        _to_ours(node, graph_module, session, parts)
    specs = _in_order(parts.specs, graph_module.meta.pop(_SIGNATURE, []))
    _order_placeholders(graph_module, specs)
    graph_module.recompile()
    signature = ExportGraphSignature(specs, list(program.signature.output_specs))
    return program.replaced(signature=signature, state=parts.state, constants=parts.constants)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a program takes besides its inputs, to be added to."""

    specs: list[InputSpec]
    state: dict[str, Tensor]
    constants: dict[str, Any]


def _to_theirs(
    node: Node,
    graph_module: GraphModule,
    specs: Mapping[str, InputSpec],
    tensors: Mapping[str, Any],
) -> None:
    from executorch.exir.delegate import executorch_call_delegate

    attribute, *operands = node.args
    assert isinstance(attribute, Node)
    module: LoweredModule = getattr(graph_module, str(attribute.target))
    baked = set(module.baked.digests)
    placeholders = [each.name for each in module.original_module.graph.find_nodes(op="placeholder")]
    state, origin = {}, []
    for position, operand in enumerate(operands):
        spec = specs.get(operand.name) if isinstance(operand, Node) else None
        if position not in baked:
            continue
        if spec is None or spec.kind not in _STATE_KINDS:
            raise ProgramError(
                f"operand {position} of {node.name} is part of the bytes of {module.name}, "
                "but no state of the program",
                hint="delegate the program again after changing its graph",
                stage="to_executorch",
            )
        state[placeholders[position]] = tensors[str(spec.target)]
        origin.append((position, spec))
    lowered = _their_module(module, state)
    lowered.meta = {
        _ORIGIN: {
            "lowered": module.lowered,
            "name": module.name,
            "digests": dict(module.baked.digests),
            "baked": origin,
            "tensors": state,
            "count": len(operands),
        }
    }
    delattr(graph_module, str(attribute.target))
    graph_module.add_module(str(attribute.target), lowered)
    node.target = executorch_call_delegate
    kept = [each for position, each in enumerate(operands) if position not in baked]
    node.args = (attribute, *kept)
    node.meta["val"] = list(node.meta["val"])


def _their_module(module: LoweredModule, state: Mapping[str, Tensor]) -> Any:
    from executorch.exir._serialize._named_data_store import NamedDataStore
    from executorch.exir.backend.compile_spec_schema import CompileSpec
    from executorch.exir.lowered_backend_module import LoweredBackendModule

    store = NamedDataStore()
    alignment: Mapping[str, int] = module.meta.get(ALIGNMENT, {})
    for name, blob in module.named_data.items():
        store.add_named_data(name, blob, alignment.get(name, _DEFAULT_ALIGNMENT))
    return LoweredBackendModule(
        edge_program=export_partition(_contiguous(module.original_module), state),
        backend_id=str(module.meta.get(RUNTIME, module.backend_id)),
        processed_bytes=module.processed_bytes,
        compile_specs=[
            CompileSpec(key, value if isinstance(value, bytes) else json.dumps(value).encode())
            for key, value in module.compile_specs.items()
        ],
        named_data_store_output=store.get_named_data_store_output(),
    )


def _contiguous(reference: GraphModule) -> GraphModule:
    """Return a graph with outputs laid out as ExecuTorch's delegates have them."""
    output = reference.graph.output_node()
    values: Any = output.args[0]
    if all(not isinstance(each, Node) or _is_contiguous(each) for each in values):
        return reference
    copied = copy_graph_module(reference)
    output = copied.graph.output_node()
    returned: list[Any] = []
    values = output.args[0]
    options: dict[str, Any] = {"memory_format": torch.contiguous_format}
    for value in values:
        if isinstance(value, Node) and not _is_contiguous(value):
            with copied.graph.inserting_before(output):
                laid_out = copied.graph.call_function(aten.clone.default, (value,), options)
            laid_out.meta["val"] = value.meta["val"].contiguous()
            returned.append(laid_out)
        else:
            returned.append(value)
    output.args = (tuple(returned),)
    copied.recompile()
    return copied


def _is_contiguous(node: Node) -> bool:
    value = node.meta.get("val")
    return not isinstance(value, Tensor) or value.is_contiguous()


def _to_ours(node: Node, graph_module: GraphModule, session: Session, parts: _Parts) -> None:
    attribute, *given = node.args
    assert isinstance(attribute, Node)
    theirs: Any = getattr(graph_module, str(attribute.target))
    origin = (theirs.meta or {}).get(_ORIGIN) or _made_up(theirs, node.name, len(given))
    lowered: Lowered = origin["lowered"]
    inside = theirs.original_module
    operands: list[Any] = [None] * origin["count"]
    names = [each.name for each in lowered.original_module.graph.find_nodes(op="placeholder")]
    known = {spec.arg.name: spec for spec in parts.specs}
    placeholders = {each.name: each for each in graph_module.graph.find_nodes(op="placeholder")}
    for position, spec in origin["baked"]:
        if spec.arg.name not in known:
            tensor = origin["tensors"][names[position]]
            placeholders[spec.arg.name] = _placeholder(graph_module, spec.arg.name, inside)
            parts.specs.append(spec)
            known[spec.arg.name] = spec
            is_constant = spec.kind is InputKind.CONSTANT_TENSOR
            (parts.constants if is_constant else parts.state)[str(spec.target)] = tensor
        operands[position] = placeholders[spec.arg.name]
    rest = iter(given)
    baked = {position for position, _ in origin["baked"]}
    for position in range(len(operands)):
        if position not in baked:
            operands[position] = next(rest)
    backend = lowered.backend_id
    implementation: BackendImplementation = session.backend(backend)
    delattr(graph_module, str(attribute.target))
    graph_module.add_module(
        str(attribute.target),
        LoweredModule(lowered, implementation, name=origin["name"], baked=origin["digests"]),
    )
    node.target = call_delegate
    node.args = (attribute, *operands)
    value = node.meta["val"]
    node.meta["val"] = tuple(value) if isinstance(value, (list, tuple)) else (value,)


def _made_up(theirs: Any, name: str, count: int) -> dict[str, Any]:
    """Return what would have been remembered of a delegate that ExecuTorch made itself."""
    from hopyard.partitioning import digest_of

    inside: ExportedProgram = theirs.original_module
    tensors = {**inside.constants, **inside.state_dict}
    baked, digests, named = [], {}, {}
    for position, spec in enumerate(inside.graph_signature.input_specs):
        if spec.kind in _STATE_KINDS:
            kind = (
                InputKind.PARAMETER
                if isinstance(tensors[str(spec.target)], Parameter)
                else InputKind.BUFFER
            )
            persistent = None if kind is InputKind.PARAMETER else True
            unique = f"{name}_{spec.arg.name}"
            baked.append((position, InputSpec(kind, TensorArgument(unique), unique, persistent)))
            digests[position] = digest_of(tensors[str(spec.target)])
            named[spec.arg.name] = tensors[str(spec.target)]
    stored = theirs.named_data_store_output
    entries = {} if stored is None else stored.pte_data
    lowered = Lowered(
        inside.graph_module,
        _OUR_NAMES.get(theirs.backend_id, theirs.backend_id),
        theirs.processed_bytes,
        {spec.key: spec.value for spec in theirs.compile_specs},
        {key: bytes(stored.buffers[entry.buffer_index]) for key, entry in entries.items()},
        {
            RUNTIME: theirs.backend_id,
            ALIGNMENT: {key: int(entry.alignment) for key, entry in entries.items()},
        },
    )
    return {
        "lowered": lowered,
        "name": name,
        "digests": digests,
        "baked": baked,
        "tensors": named,
        "count": count + len(baked),
    }


_OUR_NAMES = {"XnnpackBackend": "xnnpack"}


def _placeholder(graph_module: GraphModule, name: str, inside: ExportedProgram) -> Node:
    first = graph_module.graph.find_nodes(op="placeholder")[0]
    with graph_module.graph.inserting_before(first):
        node = graph_module.graph.placeholder(name)
    for each in inside.graph.find_nodes(op="placeholder"):
        if name.endswith(each.name):
            node.meta = {key: value for key, value in each.meta.items() if key != STATE}
    return node


def _without_unused(program: Program, graph_module: GraphModule) -> Program:
    """Return a program with another graph, without the state that nothing uses any more."""
    graph = graph_module.graph
    signature = program.signature
    written = {spec.target for spec in signature.output_specs}
    placeholders = {node.name: node for node in graph.find_nodes(op="placeholder")}
    kept = []
    for spec in signature.input_specs:
        is_state = spec.kind in _STATE_KINDS
        if is_state and not placeholders[spec.arg.name].users and spec.target not in written:
            graph.erase_node(placeholders[spec.arg.name])
        else:
            kept.append(spec)
    graph_module.recompile()
    targets = {str(spec.target) for spec in kept if spec.kind in _STATE_KINDS}
    return program.replaced(
        graph_module=graph_module,
        signature=ExportGraphSignature(kept, list(signature.output_specs)),
        state={name: value for name, value in program.state.items() if name in targets},
        constants={
            name: value
            for name, value in program.constants.items()
            if name in targets or not isinstance(value, Tensor)
        },
    )


def _in_order(specs: list[InputSpec], remembered: list[InputSpec]) -> list[InputSpec]:
    """Return inputs as they were before they were converted; state that is new comes first."""
    places = {spec.arg.name: index for index, spec in enumerate(remembered)}
    ranks = {InputKind.PARAMETER: 0, InputKind.BUFFER: 1, InputKind.CONSTANT_TENSOR: 2}
    if not places:
        return sorted(specs, key=lambda spec: ranks.get(spec.kind, 3))
    by_name = {spec.arg.name: spec for spec in specs}
    return [
        by_name.get(spec.arg.name, spec)
        for spec in sorted(remembered, key=lambda spec: places[spec.arg.name])
        if spec.arg.name in by_name
    ]


def _order_placeholders(graph_module: GraphModule, specs: list[InputSpec]) -> None:
    placeholders = {node.name: node for node in graph_module.graph.find_nodes(op="placeholder")}
    previous: Node | None = None
    for spec in specs:
        node = placeholders[spec.arg.name]
        if previous is None:
            first = next(iter(graph_module.graph.nodes))
            if first is not node:
                first.prepend(node)
        else:
            previous.append(node)
        previous = node
