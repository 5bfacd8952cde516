"""From a traced graph to a pure one with a signature.

Tensors from around it become placeholders, and the writes that functionalization leaves at the end
of the graph become outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import ScriptObject, SymBool, SymFloat, SymInt, Tensor
from torch.export.graph_signature import (
    ArgumentSpec,
    ConstantArgument,
    CustomObjArgument,
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
from torch.fx import GraphModule, Node
from torch.nn import Parameter

from .._torch.dispatch import OpOverload
from .._torch.fake import FakeTensorMode
from .._torch.graphs import extract_tensor_metadata
from .._torch.objects import class_name
from ..errors import UnsupportedError
from ..tracing import drop_unused_attributes, node_location
from ._functionalize import written_nodes
from ._script_objects import StandIns

_ORDER = (
    InputKind.PARAMETER,
    InputKind.BUFFER,
    InputKind.CONSTANT_TENSOR,
    InputKind.CUSTOM_OBJ,
    InputKind.USER_INPUT,
)

_MUTATION_OF = {
    InputKind.PARAMETER: OutputKind.PARAMETER_MUTATION,
    InputKind.BUFFER: OutputKind.BUFFER_MUTATION,
    InputKind.USER_INPUT: OutputKind.USER_INPUT_MUTATION,
}


_SYMBOLIC_ARGUMENTS: dict[type, Callable[[str], ArgumentSpec]] = {
    SymInt: SymIntArgument,
    SymFloat: SymFloatArgument,
    SymBool: SymBoolArgument,
}


class Lifted(NamedTuple):
    """Tensors that a program took from around it, by the name that their input specification gives.

    Attributes:
        parameters: They are trained with the module's own.
        constants: Other tensors, and objects of classes that are registered with torch.
    """

    parameters: dict[str, Tensor]
    constants: dict[str, Any]


def lift_held(
    graph_module: GraphModule,
    specs: list[InputSpec],
    fake_mode: FakeTensorMode,
    stand_ins: StandIns,
) -> Lifted:
    """Turn tensors and objects that the graph reads from its module into placeholders.

    Args:
        graph_module: The graph.
        specs: What its placeholders stand for; completed.
        fake_mode: Makes the fake tensors of new placeholders.
        stand_ins: What fake objects stand for.
    """
    graph = graph_module.graph
    lifted = Lifted({}, {})
    placeholders: dict[int, Node] = {}
    for node in graph.find_nodes(op="get_attr"):
        value = stand_ins.real(getattr(graph_module, str(node.target)))
        if isinstance(value, ScriptObject):
            if id(value) not in placeholders:
                placeholders[id(value)] = _lift_object(graph_module, specs, value, lifted)
        elif not isinstance(value, Tensor):
            continue
        elif id(value) not in placeholders:
            is_parameter = isinstance(value, Parameter)
            kind = InputKind.PARAMETER if is_parameter else InputKind.CONSTANT_TENSOR
            tensors = lifted.parameters if is_parameter else lifted.constants
            name = f"lifted_{'parameter' if is_parameter else 'tensor'}_{len(tensors)}"
            placeholder = _insert_placeholder(graph_module, specs, kind, name)
            placeholder.meta["val"] = fake_mode.from_tensor(value, static_shapes=True)
            placeholders[id(value)] = placeholder
            tensors[name] = value
        node.replace_all_uses_with(placeholders[id(value)])
        graph.erase_node(node)
    drop_unused_attributes(graph_module)
    return lifted


def _lift_object(
    graph_module: GraphModule, specs: list[InputSpec], value: ScriptObject, lifted: Lifted
) -> Node:
    count = sum(isinstance(each, ScriptObject) for each in lifted.constants.values())
    name = f"lifted_object_{count}"
    placeholder = _insert_placeholder(graph_module, specs, InputKind.CUSTOM_OBJ, name)
    argument = CustomObjArgument(placeholder.name, class_name(value))
    placeholder.meta["val"] = argument
    index = next(i for i, spec in enumerate(specs) if spec.target == name)
    specs[index] = InputSpec(InputKind.CUSTOM_OBJ, argument, name)
    lifted.constants[name] = value
    return placeholder


def split_mutations(
    graph_module: GraphModule, specs: Sequence[InputSpec], rebound: Sequence[str]
) -> ExportGraphSignature:
    """Turn writes to inputs and state into outputs before the user's, and describe all of them.

    Args:
        graph_module: A functionalized graph whose output is the user's results, then rebound state.
        specs: What the placeholders stand for.
        rebound: Names of the parameters and buffers whose new values the graph returns.
    """
    graph = graph_module.graph
    by_node = {spec.arg.name: spec for spec in specs}
    by_target = {spec.target: spec for spec in specs if spec.target is not None}
    written = dict(_trailing_writes(graph_module, by_node))
    output = graph.output_node()
    values: list[Any] = list(output.args[0])  # type: ignore[arg-type]
    users, state = values[: len(values) - len(rebound)], values[len(values) - len(rebound) :]
    rebound_names = [by_target[name].arg.name for name in rebound]
    written.update(zip(rebound_names, state, strict=True))
    _refuse_remaining_writes(graph_module)
    written = {name: _kept(value, written, output) for name, value in written.items()}
    users = [_kept(value, written, output) for value in users]

    mutations = [_mutation(by_node[name], value) for name, value in written.items()]
    output.args = ((*written.values(), *users),)
    results = [OutputSpec(OutputKind.USER_OUTPUT, _argument(value), None) for value in users]
    graph.eliminate_dead_code()
    graph_module.recompile()
    return ExportGraphSignature(list(specs), [*mutations, *results])


def _insert_placeholder(
    graph_module: GraphModule, specs: list[InputSpec], kind: InputKind, name: str
) -> Node:
    """Add a placeholder after those of its kind: parameters, buffers, constants, then inputs."""
    before = _ORDER[: _ORDER.index(kind) + 1]
    position = sum(spec.kind in before for spec in specs)
    graph = graph_module.graph
    placeholders = graph.find_nodes(op="placeholder")
    following = placeholders[position] if position < len(placeholders) else None
    with graph.inserting_before(following or _first_computation(graph_module)):
        placeholder = graph.placeholder(f"{'p' if kind is InputKind.PARAMETER else 'c'}_{name}")
    placeholder.target = placeholder.name
    specs.insert(position, InputSpec(kind, TensorArgument(placeholder.name), name))
    return placeholder


def _first_computation(graph_module: GraphModule) -> Node:
    nodes: Iterable[Node] = graph_module.graph.nodes
    return next(node for node in nodes if node.op != "placeholder")


def _trailing_writes(
    graph_module: GraphModule, by_node: Mapping[str, InputSpec]
) -> Iterator[tuple[str, Node]]:
    graph = graph_module.graph
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.copy_.default):
        destination, source, *_ = node.args
        if not isinstance(destination, Node) or destination.op != "placeholder":
            continue
        if by_node[destination.name].kind not in _MUTATION_OF or not isinstance(source, Node):
            continue
        node.replace_all_uses_with(source)
        graph.erase_node(node)
        yield destination.name, source


def _kept(value: Any, written: Mapping[str, Any], output: Node) -> Any:
    """Return `value`, or a clone of it if the write to an operand would change it.

    Only what a program binds anew, instead of changing it in place, can be returned as it was.
    """
    source = value
    while isinstance(source, Node) and isinstance(source.target, OpOverload):
        if not any(argument.alias_info for argument in source.target._schema.arguments):
            return value
        source = source.args[0]
    if not isinstance(source, Node) or source.name not in written:
        return value
    with output.graph.inserting_before(output):
        clone = output.graph.call_function(torch.ops.aten.clone.default, (value,))
    clone.meta = {**value.meta, "val": value.meta["val"].clone()}
    clone.meta["tensor_meta"] = extract_tensor_metadata(clone.meta["val"])
    return clone


def _refuse_remaining_writes(graph_module: GraphModule) -> None:
    for region, node in written_nodes(graph_module):
        where = f"region {region}" if region else "the program"
        raise UnsupportedError(
            f"{where} changes {_written_name(node)} in place with {node.target}, "
            "which a pure graph cannot express",
            hint="return the new value instead of writing it",
            stage="capture",
            location=node_location(node),
        )


def _written_name(node: Node) -> str:
    return str(node.args[0]) if node.args else "a tensor"


def _mutation(spec: InputSpec, value: Node) -> OutputSpec:
    target = spec.arg.name if spec.kind is InputKind.USER_INPUT else str(spec.target)
    return OutputSpec(_MUTATION_OF[spec.kind], TensorArgument(value.name), target)


def _argument(value: Any) -> ArgumentSpec:
    if not isinstance(value, Node):
        return ConstantArgument("", value)
    result = value.meta.get("val")
    for kind, argument in _SYMBOLIC_ARGUMENTS.items():
        if isinstance(result, kind):
            return argument(value.name)
    return TensorArgument(value.name)
