"""Capture: from a module or function and example inputs to a program."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.export.graph_signature import (
    ArgumentSpec,
    ConstantArgument,
    CustomObjArgument,
    ExportGraphSignature,
    InputKind,
    InputSpec,
    TensorArgument,
)
from torch.fx import Graph, GraphModule, Node
from torch.nn import Module

from hopyard_hookspecs import CaptureRequest, Finding

from .._stamps import stamp_graph
from .._torch.fake import FakeTensor, FakeTensorMode, is_fake
from .._torch.objects import is_script_object
from ..errors import UnsupportedError
from ..tracing import (
    DecompositionTable,
    ModulePaths,
    Placeholder,
    Tracer,
    TraceRuleFunction,
    TracingOptions,
    UserTraces,
    fake_mode_for,
    fakify,
    refuse_hidden_tensors,
)
from ._calling import (
    CallingConvention,
    InputLeaf,
    ObjectType,
    describe_inputs,
    is_expanded,
    parameter_names,
)
from ._dynamic import DynamicInputs, dimensions_asked
from ._functional import PureFunction, State
from ._functionalize import functionalize
from ._hidden_writes import WHOLE
from ._hoist import hoist_tensors
from ._libraries import without_libraries
from ._lift import lift_held, split_mutations
from ._manifest import Manifest
from ._operands import distinct, operands_of, shared_write, written_operands
from ._preserve import preserved, same_storage, surroundings_preserved
from ._program import Program
from ._ranges import check_promises, with_sizes
from ._recurrent import LayerByLayer, may_drop_between_layers
from ._region_operands import spare_operands
from ._script_objects import StandIns, fake_attributes, methods_refused, refuse_objects
from ._targets import runnable
from ._whole import with_regions

if TYPE_CHECKING:
    from ..safeguards import Observer


@dataclass(frozen=True)
class CaptureOptions:
    """What a session brings to a capture.

    Attributes:
        decompositions: Operators to record as what they decompose into.
        trace_rules: How to record higher-order operators, by name.
        surroundings: Context managers entered around the user's code, in order.
        observer: Watches the program for safeguards; the innermost of the surroundings.
        findings: Filled by the observer.
        manifest: Versions of what captures.
        record_module_stack: Whether nodes tell which modules they were made in.
    """

    manifest: Manifest
    decompositions: DecompositionTable = field(default_factory=dict)
    trace_rules: Mapping[str, TraceRuleFunction] = field(default_factory=dict)
    surroundings: tuple[Callable[[], AbstractContextManager[Any]], ...] = ()
    observer: Observer | None = None
    findings: Sequence[Finding] = ()
    record_module_stack: bool = False


def capture(request: CaptureRequest, options: CaptureOptions) -> Program:
    """Capture a program on fake tensors: nothing is computed, and no tensor is changed.

    Raises:
        CaptureError: The program cannot be captured.
    """
    target = runnable(request.target)
    leaves, values, in_spec = describe_inputs(target, request.args, request.kwargs)
    refuse_objects(values, leaves)
    state = State.of(target)
    fake_mode = _fake_mode([*state.all.values(), *values], request.dynamic_shapes)
    dynamic = _dynamic_inputs(request, target, leaves, fake_mode)
    placeholders = _placeholders(state, leaves)
    names = [placeholder.name for placeholder in placeholders]
    pure = PureFunction(target, names, list(state.all), in_spec)
    given = distinct([*state.all.values(), *values])
    count = len(state.all)
    operands = fakify([*given[:count], *dynamic.made(given[count:])], fake_mode)
    operands[count:] = [_dense(each, fake_mode) for each in operands[count:]]
    stand_ins = StandIns(fake_mode)
    tracing = _tracing_options(request, options, target, fake_mode)
    surroundings, program = _observed(pure, options, state, names)
    if request.dynamic_shapes is not None and may_drop_between_layers(target):
        surroundings = (LayerByLayer, *surroundings)
    tracer = Tracer(dataclasses.replace(tracing, surroundings=surroundings))
    name = getattr(target, "__name__", type(target).__name__)
    inputs = [*state.all, *(leaf.path for leaf in leaves)]
    with without_libraries():
        with (
            surroundings_preserved(),
            preserved(target),
            fake_attributes(target, stand_ins),
            methods_refused(),
            same_storage(inputs, operands),
            dynamic.watched(),
        ):
            traced = tracer.trace(program, operands, placeholders, name)
        if request.pre_dispatch:
            refuse_hidden_tensors(
                traced, fakes=not any(map(is_fake, [*state.all.values(), *values]))
            )
        buffers = zip(names[len(state.parameters) :], state.buffers.values(), strict=False)
        constant = {name for name, buffer in buffers if not buffer.requires_grad}
        graph_module = functionalize(traced, tracing, constant)
    if request.pre_dispatch:
        graph_module = with_regions(graph_module)

    hoist_tensors(graph_module)
    spare_operands(graph_module)
    symbols = dynamic.symbols()
    leaves = dynamic.leaves(operands[count:])
    specs = _input_specs(graph_module, state, leaves)
    lifted = lift_held(graph_module, specs, fake_mode, stand_ins)
    ranges = check_promises(graph_module, fake_mode.shape_env)
    signature = split_mutations(graph_module, specs, pure.rebound)
    if not request.pre_dispatch:
        # What has been done since to the graph that the tracer stamped has left its values true.
        stamp_graph(graph_module, fake_mode)
    tensors = {**lifted.parameters, **state.all}
    _refuse_shared_writes(
        signature, operands_of(signature, {**tensors, **lifted.constants}, values)
    )
    assert pure.out_spec is not None
    return Program(
        graph_module,
        signature,
        state=tensors,
        constants={**lifted.constants, **_examples(specs, values)},
        convention=CallingConvention(
            leaves,
            in_spec,
            pure.out_spec,
            parameter_names(target),
            pure.aliases(signature, symbols),
            symbols,
        ),
        range_constraints=with_sizes(ranges, symbols),
        findings=options.findings,
        manifest=options.manifest,
    )


def _tracing_options(
    request: CaptureRequest,
    options: CaptureOptions,
    target: Callable[..., Any],
    fake_mode: FakeTensorMode,
) -> TracingOptions:
    whole = WHOLE if request.pre_dispatch else {}
    has_modules = options.record_module_stack and isinstance(target, Module)
    return TracingOptions(
        tracing_mode="fake" if request.dynamic_shapes is None else "symbolic",
        fake_mode=fake_mode,
        decompositions={**whole, **options.decompositions},
        trace_rules=options.trace_rules,
        stack_traces=UserTraces(capture.__code__),
        pre_dispatch=request.pre_dispatch,
        module_paths=ModulePaths(target) if has_modules else None,  # type: ignore[arg-type]
    )


def _observed(
    pure: PureFunction, options: CaptureOptions, state: State, names: Sequence[str]
) -> tuple[tuple[Callable[[], AbstractContextManager[Any]], ...], Callable[..., Any]]:
    """Return what is entered around the program, and the program, under the observer's eyes."""
    observer = options.observer
    if observer is None:
        return options.surroundings, pure
    held = zip(names, state.all.values(), strict=False)
    observer.constants = frozenset(name for name, each in held if not each.requires_grad)

    def program(*values: Any) -> list[Any]:
        output = pure(*values)
        observer.result = output
        return output

    return (*options.surroundings, lambda: observer), program


def _refuse_shared_writes(signature: ExportGraphSignature, operands: Mapping[str, Any]) -> None:
    shared = shared_write(written_operands(signature), operands)
    if shared is None:
        return
    raise UnsupportedError(
        f"the program changes {shared[0]} in place, which shares memory with {shared[1]}",
        hint="clone one of them, or keep a single tensor and take views of it in the program",
        stage="capture",
    )


def _fake_mode(values: Sequence[Any], dynamic_shapes: Any) -> FakeTensorMode:
    # A module may hold tensors that are neither parameters nor buffers; they become constants.
    symbolic = dynamic_shapes is not None
    fake_mode = fake_mode_for(values, allow_non_fake_inputs=True, symbolic=symbolic)
    if any(isinstance(value, Tensor) and value._has_symbolic_sizes_strides for value in values):
        raise UnsupportedError(
            "the example inputs belong to a fake mode with symbolic shapes",
            hint="capture with plain tensors and dynamic_shapes",
            stage="capture",
        )
    return fake_mode


def _dynamic_inputs(
    request: CaptureRequest,
    target: Callable[..., Any],
    leaves: tuple[InputLeaf, ...],
    fake_mode: FakeTensorMode,
) -> DynamicInputs:
    if request.dynamic_shapes is None:
        return DynamicInputs(leaves, [{}] * len(leaves), fake_mode)
    asked = dimensions_asked(request.dynamic_shapes, target, request.args, request.kwargs)
    return DynamicInputs(leaves, asked, fake_mode)


def _dense(value: Any, fake_mode: FakeTensorMode) -> Any:
    """Return a fake value whose elements have memory of their own, as inputs of programs have."""
    if not isinstance(value, FakeTensor) or value.layout is not torch.strided:
        return value
    if not is_expanded(value):
        return value
    with fake_mode, torch.no_grad():
        return value.contiguous().requires_grad_(value.requires_grad)


def _placeholders(state: State, leaves: Sequence[InputLeaf]) -> list[Placeholder]:
    names = [f"p_{name}" for name in state.parameters] + [f"b_{name}" for name in state.buffers]
    names = [name.replace(".", "_") for name in names]
    # A graph that is thrown away finds names that are free, no keywords and no built-in functions.
    scratch = Graph()
    named = [scratch.placeholder(name).name for name in [*names, *(leaf.name for leaf in leaves)]]
    return [Placeholder(name) for name in named]


def _input_specs(
    graph_module: GraphModule, state: State, leaves: Sequence[InputLeaf]
) -> list[InputSpec]:
    nodes: list[Node] = graph_module.graph.find_nodes(op="placeholder")
    kinds = [
        *((InputKind.PARAMETER, name) for name in state.parameters),
        *((InputKind.BUFFER, name) for name in state.buffers),
        *((InputKind.USER_INPUT, None) for _ in leaves),
    ]
    specs = []
    expected = [*state.all.values(), *(leaf.expected for leaf in leaves)]
    for node, (kind, target), value in zip(nodes, kinds, expected, strict=True):
        node.target = node.name
        persistent = target not in state.transient if kind is InputKind.BUFFER else None
        specs.append(InputSpec(kind, _argument(node, value), target, persistent))
    return specs


def _examples(specs: Sequence[InputSpec], values: Sequence[Any]) -> dict[str, Any]:
    """Return the objects among the example inputs, by placeholder: torch asks for them later."""
    names = [spec.arg.name for spec in specs if spec.kind is InputKind.USER_INPUT]
    pairs = zip(names, values, strict=True)
    return {name: value for name, value in pairs if is_script_object(value)}


def _argument(node: Node, expected: Any) -> ArgumentSpec:
    if isinstance(node.meta.get("val"), Tensor):
        return TensorArgument(node.name)
    if isinstance(expected, ObjectType):
        node.meta["val"] = CustomObjArgument(node.name, expected.name)
        return CustomObjArgument(node.name, expected.name)
    node.meta["val"] = expected
    return ConstantArgument(node.name, expected)
