"""Calls that write, and the calls that return the new values instead."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from .._torch.dispatch import DispatchKey, OpOverload
from .._torch.fake import FakeTensorMode
from .._torch.graphs import extract_tensor_metadata
from ..hops import Operator, effects_of_call
from ..tracing import DecompositionTable
from ._arguments import arguments_of
from ._sizes import Size, size_of

aten = torch.ops.aten

_WITH_NEW_VALUES: dict[OpOverload, OpOverload] = {
    aten._native_batch_norm_legit.default: aten._native_batch_norm_legit_functional.default
}
"""Operators that write besides what they return, and those that return all of it."""

_OF_VALUES = ("val", "tensor_meta", "unbacked_bindings")


class PureForm(NamedTuple):
    """What can stand for a call that writes.

    Attributes:
        operator: What to call instead, with the same arguments.
        operands: The nodes whose tensors change.
        values: What it returns, as fake values: the new values come last.
        is_single: Whether it returns a tensor and no tuple.
    """

    operator: OpOverload
    operands: tuple[Node, ...]
    values: tuple[Any, ...]
    is_single: bool

    @property
    def new_values(self) -> tuple[Tensor, ...]:
        """The new values of the operands."""
        return self.values[-len(self.operands) :]

    def insert_before(self, node: Node) -> dict[Node, Node]:
        """Put the call before the write; return what then stands for the tensors that changed."""
        with node.graph.inserting_before(node):
            call = call_like(node, self.operator, node.args, node.kwargs)
            if self.is_single:
                describe(call, self.values[0])
                return {self.operands[0]: call}
            call.meta["val"] = self.values
            node.replace_all_uses_with(call)
            first = len(self.values) - len(self.operands)
            items = {}
            for index, operand in enumerate(self.operands, first):
                item = items[operand] = call_like(node, operator.getitem, (call, index))
                describe(item, self.values[index])
        return items


def is_write(node: Node) -> bool:
    """Return whether a node says that it changes an operand in place."""
    if isinstance(node.target, Operator) and node.target.definition.writes:
        effects = effects_of_call(node)
        return effects is None or bool(effects.written) or effects.writes_constants
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def written_by(node: Node) -> tuple[Node, ...]:
    """Return the nodes whose tensors the call of an operator changes in place.

    Those in lists are left out.
    """
    if not isinstance(node.target, OpOverload):
        return ()
    arguments = arguments_of(node)
    written = [each.name for each in node.target._schema.arguments if _is_written(each)]
    return tuple(arguments[name] for name in written if isinstance(arguments[name], Node))


def pure_form(
    node: Node,
    fake_mode: FakeTensorMode,
    decompositions: DecompositionTable,
    *,
    composite: bool = False,
) -> PureForm | None:
    """Return what can stand for a call that writes, or None.

    Args:
        node: The call.
        fake_mode: The mode of the values in the graph.
        decompositions: Operators that the graph must not have.
        composite: Whether it may have operators that are made of others.
    """
    if not isinstance(node.target, OpOverload):
        return None
    pure = _without_writes(node.target, composite=composite)
    if pure is None or pure in decompositions:
        return None
    operands = written_by(node)
    if len(operands) < sum(map(_is_written, node.target._schema.arguments)):
        return None
    if len(set(operands)) < len(operands):
        return None
    value = computed(fake_mode, pure, node.args, node.kwargs)
    values = value if isinstance(value, tuple) else (value,)
    return PureForm(pure, operands, values, values == (value,))


def computed(
    fake_mode: FakeTensorMode, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Return what a call of an operator with these nodes returns, as fake values."""
    args, kwargs = map_arg((args, dict(kwargs)), lambda each: each.meta["val"])
    with fake_mode, torch.no_grad():
        return target(*args, **kwargs)


def is_alike(before: Tensor, now: Tensor) -> bool:
    """Return whether one value can stand for the other in a graph."""
    is_same_kind = (before.dtype, before.device) == (now.dtype, now.device)
    return is_same_kind and _layout(before) == _layout(now)


def call_like(
    node: Node, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> Node:
    """Return a new call that comes from where `node` does."""
    call = node.graph.create_node("call_function", target, args, dict(kwargs or {}))
    call.meta = {key: value for key, value in node.meta.items() if key not in _OF_VALUES}
    return call


def describe(node: Node, value: Any) -> None:
    """Write the metadata of a node that gives a fake value."""
    node.meta["val"] = value
    if isinstance(value, Tensor):
        node.meta["tensor_meta"] = extract_tensor_metadata(value)


def order_items(graph: Graph) -> None:
    """Put the items of every result right after it and in order, where reading a file puts them."""
    for node in list(graph.nodes):
        items = [user for user in node.users if user.target is operator.getitem]
        last = node
        for item in sorted(items, key=lambda each: each.args[1]):
            last.append(item)
            last = item


def copy_to_inputs(output: Node, current: Mapping[Node, Node]) -> None:
    """Write what has become of inputs back to them, as functionalization does."""
    with output.graph.inserting_before(output):
        for placeholder in output.graph.find_nodes(op="placeholder"):
            if placeholder in current:
                new = current[placeholder]
                describe(call_like(new, aten.copy_.default, (placeholder, new)), new.meta["val"])


def _without_writes(write: OpOverload, *, composite: bool) -> OpOverload | None:
    """Return the operator that returns what another writes, after what the other returns."""
    known = _WITH_NEW_VALUES.get(write)
    if known is not None or write.namespace != "aten":
        return known
    name = write._schema.name.partition("::")[2]
    if not name.endswith("_"):
        return None
    pure = getattr(getattr(aten, name[:-1], None), write._overloadname, None)
    if not isinstance(pure, OpOverload):
        return None
    if not composite and pure.has_kernel_for_dispatch_key(DispatchKey.CompositeImplicitAutograd):
        return None
    ours, theirs = pure._schema, write._schema
    is_same = [each.name for each in ours.arguments] == [each.name for each in theirs.arguments]
    is_pure = not any(each.alias_info for each in (*ours.arguments, *ours.returns))
    is_single = len(ours.returns) == 1 and sum(map(_is_written, theirs.arguments)) == 1
    return pure if is_same and is_pure and is_single else None


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _layout(tensor: Tensor) -> list[Size]:
    # As expressions, since comparing symbolic numbers would decide by them.
    return [size_of(each) for each in (*tensor.shape, *tensor.stride())]
