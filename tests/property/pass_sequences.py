"""Random passes, run one after the other, that change graphs and not what they compute."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from pipelines import SEED, Kind
from torch import Tensor
from torch.fx import GraphModule

from hopyard import Session
from hopyard.verify import verify, walk_graphs
from hopyard_export_pass import ExportPass, recompute_everything
from hopyard_hookspecs import PassResult

aten = torch.ops.aten

ZEROS = {
    dtype: torch.zeros((), dtype=dtype)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
}
"""Constants, made outside of callbacks: within, tensors are fake."""


@dataclass(frozen=True)
class EachTime(ExportPass):
    """Changes each `every`-th operator that gives a floating-point tensor, and tags the others."""

    every: int = 1
    offset: int = 0

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        value = super().call_operator(op, args, kwargs, meta)
        chosen = sum(map(ord, value.node.name)) % self.every == self.offset % self.every
        if not chosen or not value.is_tensor() or not value.to_tensor().is_floating_point():
            return value
        return self.change(value, meta)

    def change(self, value: Any, meta: Any) -> Any:
        """Return what stands for a value from now on."""
        return value

    def emit(self, op: Any, *args: Any, meta: Any) -> Any:
        """Emit a call, past the change."""
        return super().call_operator(op, args, {}, meta)


class Negate(EachTime):
    """Twice."""

    def change(self, value: Any, meta: Any) -> Any:
        return self.emit(aten.neg.default, self.emit(aten.neg.default, value, meta=meta), meta=meta)


class Widen(EachTime):
    """By a dimension, and back: what is between has another shape."""

    def change(self, value: Any, meta: Any) -> Any:
        wide = self.emit(aten.unsqueeze.default, value, 0, meta=meta)
        return self.emit(aten.squeeze.dim, wide, 0, meta=meta)


class AddNothing(EachTime):
    """A constant of zeros, read as a new attribute."""

    def change(self, value: Any, meta: Any) -> Any:
        return self.emit(aten.sub.Tensor, value, ZEROS[value.data.dtype], meta=meta)


class Replay(EachTime):
    """Changes nothing."""


class Retarget(EachTime):
    """Edits the graph by hand, and leaves the metadata to the base."""

    def call(self, graph_module: GraphModule) -> PassResult:
        edited = copy.deepcopy(graph_module)
        for node in list(edited.graph.nodes):
            value = node.meta.get("val")
            if node.op != "call_function" or not isinstance(value, Tensor):
                continue
            if not value.is_floating_point() or node.target is not aten.mul.Tensor:
                continue
            with edited.graph.inserting_after(node):
                made = edited.graph.call_function(aten.mul.Tensor, (node, 1.0))
            made.meta = node.meta.copy()
            node.replace_all_uses_with(
                made, delete_user_cb=lambda user, made=made: user is not made
            )
        edited.recompile()
        return super().call(edited)


def sequences(most: int) -> st.SearchStrategy[list[ExportPass]]:
    """Return sequences of up to `most` passes."""
    kinds = (Negate, Widen, AddNothing, Replay, Retarget)
    one = st.builds(
        lambda kind, every, offset: kind(every, offset),
        st.sampled_from(kinds),
        st.integers(1, 12),
        st.integers(0, 11),
    )
    return st.lists(one, min_size=1, max_size=most)


def check_sequence(session: Session, kind: Kind, passes: list[ExportPass]) -> None:
    """Run passes on a program; compare it with eager, and its metadata with the truth.

    Raises:
        AssertionError: It does something else, or its metadata is stale.
    """
    target, inputs = kind.made()
    again = copy.deepcopy(target)
    with torch.no_grad():
        program = session.capture(target, inputs, **kind.capture)
        for each in passes:
            result = each(program.graph_module)
            with recompute_everything():
                anew = each(program.graph_module)
            assert shown(result.graph_module) == shown(anew.graph_module)
            assert result.modified == anew.modified
            program = program.with_graph(result.graph_module)
        verify(program.graph_module, propagate=True)
        torch.manual_seed(SEED)
        expected = again(*copy.deepcopy(inputs))
        torch.manual_seed(SEED)
        torch.testing.assert_close(program(*copy.deepcopy(inputs)), expected)


def shown(graph_module: GraphModule) -> list[tuple[str, ...]]:
    """Return a graph as text; symbols that are made anew have other names each time."""
    return [
        (node.name, str(node.target), str(len(node.args)), str(node.meta.get("stack_trace")))
        + (() if re.search(r"\b(u|zuf)\d", value_of(node)) else (value_of(node),))
        for _, body in walk_graphs(graph_module)
        for node in body.graph.nodes
    ]


def value_of(node: Any) -> str:
    """Return a node's value as text."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return str(value)
    return f"{value.dtype} {tuple(value.shape)} {value.stride()}"
