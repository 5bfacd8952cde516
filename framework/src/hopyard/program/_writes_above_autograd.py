"""Writes of a graph above autograd as new values, through which gradients flow as they did."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from .._torch.fake import FakeTensorMode
from ..errors import UnsupportedError
from ..tracing import DecompositionTable, node_location
from ._kept_gradients import writes_that_lose_gradients
from ._pure_forms import (
    call_like,
    computed,
    copy_to_inputs,
    describe,
    is_alike,
    is_write,
    order_items,
    pure_form,
    written_by,
)
from ._shared_memory import Call, SharedMemory, is_same_part, producer, written_through

aten = torch.ops.aten


def remove_writes_above_autograd(
    graph_module: GraphModule,
    fake_mode: FakeTensorMode,
    decompositions: DecompositionTable,
    without_gradients: Collection[str],
) -> None:
    """Let operators return new values instead of writing, and copy those of inputs in the end.

    What views see of a write is computed right after it, with gradients on or off as they were.

    Args:
        graph_module: The graph; changed in place.
        fake_mode: The mode of the values in its metadata.
        decompositions: Operators that it must not have.
        without_gradients: The placeholders that no gradient ever flows from.

    Raises:
        UnsupportedError: It cannot be done, or gradients would be lost.
    """
    memory = SharedMemory(graph_module)
    for node in writes_that_lose_gradients(graph_module, memory, without_gradients):
        raise _refused(
            node,
            "with gradients off or through a detached tensor, and gradients flow through it later",
            hint="write to a clone, or capture without pre_dispatch",
        )
    _Rewriting(graph_module, memory, fake_mode, decompositions).run()


class _Rewriting:
    """Rewrites a graph from its beginning to its end.

    Of each node with memory that writes reach, it keeps what stands for it now, and how many writes
    to the memory there had been when that was made.
    """

    def __init__(
        self,
        graph_module: GraphModule,
        memory: SharedMemory,
        fake_mode: FakeTensorMode,
        decompositions: DecompositionTable,
    ) -> None:
        nodes = list(graph_module.graph.nodes)
        self._graph_module = graph_module
        self._memory = memory
        self._fake_mode = fake_mode
        self._decompositions = decompositions
        self._order = {node: index for index, node in enumerate(nodes)}
        self._last_use = {
            node: max((self._order[user] for user in node.users), default=-1) for node in nodes
        }
        self._given = {node: (node.args, node.kwargs) for node in nodes}
        self._operands = {node: written_by(node) for node in nodes if is_write(node)}
        self._writes: dict[Node, int] = {}
        self._now: dict[Node, Node] = {}
        self._made_after: dict[Node, int] = {}
        self._producers: dict[tuple[Node, int], Node] = {}

    def run(self) -> None:
        for node in self._order:
            if node.op == "output":
                copy_to_inputs(node, {base: self._now[base] for base in self._writes})
            node.args, node.kwargs = map_arg(self._given[node], self._current)
            if node in self._operands:
                self._rewrite(node)
            elif (base := self._memory.base(node)) is not None:
                self._made_after[node] = self._writes.get(base, 0)
        for node in reversed(self._operands):
            self._graph_module.graph.erase_node(node)
        order_items(self._graph_module.graph)
        self._graph_module.recompile()

    def _current(self, node: Node) -> Node:
        return self._now.get(node, node)

    def _rewrite(self, write: Node) -> None:
        operands = self._operands[write]
        if write.target is aten.copy_.default:
            self._put(write, operands[0], self._copied(write, operands[0]))
            return
        form = pure_form(write, self._fake_mode, self._decompositions, composite=True)
        if form is None or len(form.operands) != len(operands):
            raise _refused(write, "in a way that has no form that returns the new value")
        made = form.insert_before(write)
        if not form.is_single:
            self._now[write] = producer(made[form.operands[0]])
        for operand, current in zip(operands, form.operands, strict=True):
            self._put(write, operand, self._of_type(write, current, made[current]))

    def _copied(self, write: Node, operand: Node) -> Node:
        """Return what an operand becomes when another tensor is copied to it."""
        current, source = write.args[:2]
        assert isinstance(current, Node)
        assert isinstance(source, Node)
        value = self._of_type(write, current, source)
        value = self._call(write, (aten.expand_as.default, (value, current)))
        if self._memory.base(operand) is not operand:
            return value
        # The copy must not share memory with its source.
        return self._laid_out(write, current, value) or self._call(
            write, (aten.clone.default, (value,))
        )

    def _of_type(self, write: Node, current: Node, value: Node) -> Node:
        before, now = current.meta["val"], value.meta["val"]
        if (before.dtype, before.device) == (now.dtype, now.device):
            return value
        return self._call(write, (aten.to.other, (value, current)))

    def _laid_out(self, write: Node, current: Node, value: Node) -> Node | None:
        """Return a value in memory of its own that is laid out like that of `current`."""
        if not current.meta["val"].dim():
            return None
        return self._call(write, (aten.slice_scatter.default, (current, value)))

    def _put(self, write: Node, operand: Node, value: Node) -> None:
        """Let `value` stand for an operand from here on, and bring what shares its memory along."""
        base = self._memory.base(operand)
        if base is None or base.op == "get_attr":
            raise _refused(write, "which is none of the program's inputs and not made by it")
        on_the_way = {}
        member = operand
        while member is not base:
            on_the_way[member] = value
            member, value = self._step_up(write, member, value)
        if not is_alike(base.meta["val"], value.meta["val"]):
            value = self._laid_out(write, self._current(base), value) or value
        count = self._writes[base] = self._writes.get(base, 0) + 1
        self._set(base, value, count)
        for member, known in on_the_way.items():
            # What was expanded shares memory with what was copied.
            is_own = known.target is not aten.expand_as.default
            if is_own and is_alike(member.meta["val"], known.meta["val"]):
                self._set(member, known, count)
        for member in self._memory.members(base):
            if self._order[member] < self._order[write] < self._last_use[member]:
                self._refresh(write, member)
        now = self._refresh(write, operand)
        if self._memory.base(write) is base:
            self._set(write, now, count)

    def _step_up(self, write: Node, view: Node, value: Node) -> tuple[Node, Node]:
        """Return what a view was taken of, and its new value when the view becomes `value`."""
        parent = self._memory.parent(view)
        if parent is None:
            raise _refused(write, "which shares memory in a way that is not known")
        if is_write(view) or is_same_part(view.meta["val"], parent.meta["val"]):
            return parent, value
        call = written_through(view, self._refresh(write, parent), value)
        if call is None:
            raise _refused(write, f"through {view.target}")
        return parent, self._call(write, call)

    def _refresh(self, write: Node, member: Node) -> Node:
        """Return what stands for a node after all writes up to this one."""
        base = self._memory.base(member)
        assert base is not None
        count = self._writes.get(base, 0)
        if self._made_after[member] != count:
            parent = self._memory.parent(member)
            if parent is None:
                raise _refused(write, f"which shares memory with {member}")
            current = self._refresh(write, parent)
            made = current if is_write(member) else self._again(write, member, count)
            self._set(member, made, count)
        return self._current(member)

    def _again(self, write: Node, view: Node, count: int) -> Node:
        """Take a view again, of what stands for its base now."""
        source = producer(view)
        key = source, count
        if key not in self._producers:
            args, kwargs = map_arg(self._given[source], self._current)
            self._producers[key] = self._call(write, (source.target, args), kwargs, like=source)
        made = self._producers[key]
        if source is view:
            return made
        return self._call(write, (view.target, (made, *view.args[1:])), like=view)

    def _set(self, node: Node, now: Node, count: int) -> None:
        self._now[node] = now
        self._made_after[node] = count

    def _call(
        self,
        write: Node,
        call: Call,
        kwargs: dict[str, Any] | None = None,
        like: Node | None = None,
    ) -> Node:
        """Put a call before a write."""
        target, args = call
        if target in self._decompositions:
            raise _refused(write, f"which takes {target}, and that is decomposed")
        try:
            value = computed(self._fake_mode, target, args, kwargs or {})
        except RuntimeError as error:
            raise _refused(write, f"after which {target} is not possible") from error
        with write.graph.inserting_before(write):
            made = call_like(like or write, target, args, kwargs)
        describe(made, value)
        return made


def _refused(
    write: Node,
    how: str,
    hint: str = "return new values instead of writing them, or capture without pre_dispatch",
) -> UnsupportedError:
    name = write.args[0] if write.args else "a tensor"
    return UnsupportedError(
        f"the program changes {name} in place with {write.target}, {how}, which a pure graph above "
        "autograd cannot express",
        hint=hint,
        stage="capture",
        location=node_location(write),
    )
