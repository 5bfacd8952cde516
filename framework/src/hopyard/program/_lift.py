"""From a traced graph to a pure one with a signature.

Constants become placeholders, and the writes that functionalization leaves at the end of the graph become
outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.export.graph_signature import (
    ArgumentSpec,
    ConstantArgument,
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.fx import GraphModule, Node

from .._torch.fake import FakeTensorMode
from ..errors import UnsupportedError
from ..tracing import drop_unused_attributes, node_location
from ._functionalize import written_nodes

_MUTATION_OF = {
    InputKind.PARAMETER: OutputKind.PARAMETER_MUTATION,
    InputKind.BUFFER: OutputKind.BUFFER_MUTATION,
    InputKind.USER_INPUT: OutputKind.USER_INPUT_MUTATION,
}


def lift_constants(
    graph_module: GraphModule, specs: list[InputSpec], fake_mode: FakeTensorMode
) -> dict[str, Tensor]:
    """Turn tensors that the graph reads from its module into placeholders before the user's inputs.

    Returns:
        The tensors by the name that their input specification gives.
    """
    graph = graph_module.graph
    constants: dict[str, Tensor] = {}
    placeholders: dict[str, Node] = {}
    for node in graph.find_nodes(op="get_attr"):
        value = getattr(graph_module, str(node.target))
        if not isinstance(value, Tensor):
            continue
        if str(node.target) not in placeholders:
            name = f"lifted_tensor_{len(constants)}"
            placeholders[str(node.target)] = _insert_constant(graph_module, specs, name)
            placeholders[str(node.target)].meta["val"] = fake_mode.from_tensor(
                value, static_shapes=True
            )
            constants[name] = value.detach()
        node.replace_all_uses_with(placeholders[str(node.target)])
        graph.erase_node(node)
    drop_unused_attributes(graph_module)
    return constants


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
    written.update({by_target[name].arg.name: value for name, value in zip(rebound, state, strict=True)})
    _refuse_remaining_writes(graph_module)

    mutations = [
        OutputSpec(_MUTATION_OF[by_node[name].kind], TensorArgument(value.name), _written_to(by_node[name]))
        for name, value in written.items()
    ]
    output.args = ((*written.values(), *users),)
    results = [OutputSpec(OutputKind.USER_OUTPUT, _argument(value), None) for value in users]
    graph.eliminate_dead_code()
    graph_module.recompile()
    return ExportGraphSignature(list(specs), [*mutations, *results])


def _insert_constant(graph_module: GraphModule, specs: list[InputSpec], name: str) -> Node:
    position = sum(spec.kind is not InputKind.USER_INPUT for spec in specs)
    graph = graph_module.graph
    placeholders = graph.find_nodes(op="placeholder")
    before = placeholders[position] if position < len(placeholders) else None
    with graph.inserting_before(before or _first_computation(graph_module)):
        placeholder = graph.placeholder(f"c_{name}")
    placeholder.target = placeholder.name
    argument = TensorArgument(placeholder.name)
    specs.insert(position, InputSpec(InputKind.CONSTANT_TENSOR, argument, name))
    return placeholder


def _first_computation(graph_module: GraphModule) -> Node:
    return next(node for node in graph_module.graph.nodes if node.op != "placeholder")


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


def _written_to(spec: InputSpec) -> str:
    return spec.arg.name if spec.kind is InputKind.USER_INPUT else str(spec.target)


def _argument(value: Any) -> ArgumentSpec:
    return TensorArgument(value.name) if isinstance(value, Node) else ConstantArgument("", value)
