"""Writes that no view can see: they are taken out of a graph without tracing it again."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from .._torch.dispatch import DispatchKey, OpOverload
from .._torch.fake import FakeTensorMode
from .._torch.graphs import extract_tensor_metadata
from ..hops import Operator, effects_of_call
from ..tracing import DecompositionTable
from ._arguments import arguments_of
from ._operands import storage_of
from ._sizes import Size, size_of

aten = torch.ops.aten

_WITH_NEW_VALUES: dict[OpOverload, OpOverload] = {
    aten._native_batch_norm_legit.default: aten._native_batch_norm_legit_functional.default
}
"""Operators that write besides what they return, and those that return all of it."""

_OF_VALUES = ("val", "tensor_meta", "unbacked_bindings")


class _Pure(NamedTuple):
    """What can stand for a call that writes.

    Attributes:
        operator: What to call instead, with the same arguments.
        written: The nodes that made the tensors that change.
        values: What it returns, as fake values: their new values come last.
        is_single: Whether it returns a tensor and no tuple.
    """

    operator: OpOverload
    written: tuple[Node, ...]
    values: tuple[Any, ...]
    is_single: bool


def remove_plain_writes(
    graph_module: GraphModule, fake_mode: FakeTensorMode, decompositions: DecompositionTable
) -> bool:
    """Let operators return new values instead of writing, and copy those of inputs in the end.

    A write can be removed so if its operator has a form that returns the new value, of the same
    kind, and if no other tensor shares memory with what is written.

    Returns:
        Whether it was done. A graph with any other write is left as it is.
    """
    nodes = graph_module.graph.nodes
    writes = [node for node in nodes if is_write(node)]
    bases = _bases(graph_module)
    pure: dict[Node, _Pure] = {}
    for node in writes:
        form = _pure_form(node, bases, fake_mode, decompositions)
        if form is None:
            return False
        pure[node] = form
    current: dict[Node | None, Node] = {}
    for node in list(nodes):
        if node.op == "output":
            _copy_to_inputs(node, current)
        node.args, node.kwargs = map_arg(
            (node.args, node.kwargs), lambda used: current.get(bases.get(used), used)
        )
        if node in pure:
            current.update(_replace(node, pure[node]))
    for node in reversed(writes):
        graph_module.graph.erase_node(node)
    graph_module.recompile()
    return True


def is_write(node: Node) -> bool:
    """Return whether a node says that it changes an operand in place."""
    if isinstance(node.target, Operator) and node.target.definition.writes:
        effects = effects_of_call(node)
        return effects is None or bool(effects.written) or effects.writes_constants
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def _bases(graph_module: GraphModule) -> dict[Node, Node]:
    """Return, for each node whose tensor shares memory with no other, which node made the tensor.

    What a write returns is the tensor that it wrote to.
    """
    sharing: dict[int, list[Node]] = defaultdict(list)
    for node in graph_module.graph.nodes:
        storage = storage_of(node.meta.get("val"))
        if storage is not None:
            sharing[storage].append(node)
    bases = {}
    for nodes in sharing.values():
        base, *others = nodes
        if base.op != "get_attr" and all(is_write(node) for node in others):
            bases.update(dict.fromkeys(nodes, base))
    return bases


def _pure_form(
    node: Node,
    bases: Mapping[Node, Node],
    fake_mode: FakeTensorMode,
    decompositions: DecompositionTable,
) -> _Pure | None:
    """Return what can stand for a call that writes; None if that takes another trace."""
    if not isinstance(node.target, OpOverload):
        return None
    pure = _without_writes(node.target)
    if pure is None or pure in decompositions:
        return None
    arguments = arguments_of(node)
    names = [each.name for each in node.target._schema.arguments if _is_written(each)]
    operands = [arguments[name] for name in names]
    if len(set(operands)) < len(operands) or any(operand not in bases for operand in operands):
        return None
    args, kwargs = map_arg((node.args, node.kwargs), lambda each: each.meta["val"])
    with fake_mode, torch.no_grad():
        value = pure(*args, **kwargs)
    values = value if isinstance(value, tuple) else (value,)
    for operand, new in zip(operands, values[-len(operands) :], strict=True):
        if not _is_alike(operand.meta["val"], new):
            return None
    written = tuple(bases[operand] for operand in operands)
    return _Pure(pure, written, values, values == (value,))


def _without_writes(write: OpOverload) -> OpOverload | None:
    """Return the operator that returns what another writes, after what the other returns."""
    known = _WITH_NEW_VALUES.get(write)
    if known is not None or write.namespace != "aten":
        return known
    name = write._schema.name.partition("::")[2]
    if not name.endswith("_"):
        return None
    pure = getattr(getattr(aten, name[:-1], None), write._overloadname, None)
    if not isinstance(pure, OpOverload) or pure.has_kernel_for_dispatch_key(
        DispatchKey.CompositeImplicitAutograd
    ):
        return None
    ours, theirs = pure._schema, write._schema
    is_same = [each.name for each in ours.arguments] == [each.name for each in theirs.arguments]
    is_pure = not any(each.alias_info for each in (*ours.arguments, *ours.returns))
    is_single = len(ours.returns) == 1 and sum(map(_is_written, theirs.arguments)) == 1
    return pure if is_same and is_pure and is_single else None


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _is_alike(before: Tensor, now: Tensor) -> bool:
    is_same_kind = (before.dtype, before.device) == (now.dtype, now.device)
    return is_same_kind and _layout(before) == _layout(now)


def _layout(tensor: Tensor) -> list[Size]:
    # As expressions, since comparing symbolic numbers would decide by them.
    return [size_of(each) for each in (*tensor.shape, *tensor.stride())]


def _replace(node: Node, pure: _Pure) -> dict[Node | None, Node]:
    """Put a pure call before a write; return what then stands for the tensors that changed."""
    with node.graph.inserting_before(node):
        call = _call(node, pure.operator, node.args, node.kwargs)
        if pure.is_single:
            _describe(call, pure.values[0])
            return {pure.written[0]: call}
        call.meta["val"] = pure.values
        node.replace_all_uses_with(call)
        first = len(pure.values) - len(pure.written)
        items: dict[Node | None, Node] = {}
        for index, operand in enumerate(pure.written, first):
            item = items[operand] = _call(node, operator.getitem, (call, index), {})
            _describe(item, pure.values[index])
    return items


def _call(write: Node, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Node:
    call = write.graph.create_node("call_function", target, args, kwargs)
    call.meta = {key: value for key, value in write.meta.items() if key not in _OF_VALUES}
    return call


def _copy_to_inputs(output: Node, current: Mapping[Node | None, Node]) -> None:
    """Write what has become of inputs back to them, as functionalization does."""
    with output.graph.inserting_before(output):
        for placeholder in output.graph.find_nodes(op="placeholder"):
            if placeholder in current:
                new = current[placeholder]
                copy = _call(new, aten.copy_.default, (placeholder, new), {})
                _describe(copy, new.meta["val"])


def _describe(node: Node, value: Tensor) -> None:
    """Write the metadata of a node that gives a fake tensor."""
    node.meta["val"] = value
    node.meta["tensor_meta"] = extract_tensor_metadata(value)
