"""Random programs for hypothesis, and what must be true of each."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from agreement import HIDDEN, MODES, PRE_DISPATCH, Verdict, compare
from hypothesis import strategies as st
from programs import LINES, Instruction, Program, Recipe, assemble
from templates import BLOCKS, INPUTS
from torch._decomp import core_aten_decompositions

aten = torch.ops.aten

LONGEST = 14
ROUNDS = "a decomposition rounds in another way"
_BELOW = re.compile(r"torch\.func\b|vmap|jvp|backward\(|\.(data|grad)\b|_grad\(")
"""What makes tensors that a capture above autograd does not see."""


def recipes() -> st.SearchStrategy[Recipe]:
    """Return programs of some lines; one in five has a decomposition table."""
    numbers = st.lists(st.integers(0, 23), max_size=6).map(tuple)
    anything = st.builds(Instruction, st.integers(0, LINES - 1), numbers)
    repeated = st.builds(Instruction, st.just(0), numbers)
    line = st.one_of(anything, anything, anything, repeated)
    block = line
    for _ in range(2):
        body = st.lists(block, min_size=1, max_size=5).map(tuple)
        blocks = st.builds(Instruction, st.integers(0, len(BLOCKS) - 1), st.just(()), body)
        block = st.one_of(*[line] * 9, blocks)
    return st.builds(
        Recipe,
        st.lists(st.integers(0, len(INPUTS) - 1), min_size=1, max_size=3).map(tuple),
        st.lists(block, min_size=1, max_size=LONGEST).map(tuple),
        st.sampled_from(("none",) * 8 + ("core", "own")),
    )


def verdicts(recipe: Recipe, modes: Sequence[str] = MODES) -> tuple[Program, dict[str, Verdict]]:
    """Return a program and how its captures compare, by mode."""
    program = assemble(recipe)
    table = TABLES[recipe.table]()
    reason = program.not_computed or (ROUNDS if table else "")
    return program, {
        mode: compare(
            program.function,
            program.inputs,
            mode,
            decompositions=table,
            eager=True,
            others=program.others,
            not_computed=reason or _hidden(program, mode),
        )
        for mode in modes
    }


def _hidden(program: Program, mode: str) -> str:
    hidden = mode.startswith(PRE_DISPATCH) and _BELOW.search(program.source)
    return HIDDEN if hidden else ""


def check(recipe: Recipe, modes: Sequence[str] = MODES) -> dict[str, Verdict]:
    """Check that both tracers agree on a program and that its graph computes what it does.

    Raises:
        AssertionError: They do not; the message is a program to run.
    """
    program, found = verdicts(recipe, modes)
    for mode, verdict in found.items():
        assert verdict.outcome.agrees, (
            f"{mode}, decomposition table {recipe.table!r}, inputs "
            f"{', '.join(INPUTS[kind] for kind in recipe.inputs)}:\n\n{program.source}\n"
            f"{verdict.outcome.value}: {verdict.detail}"
        )
    return found


def _own_table() -> dict[Any, Callable[..., Any]]:
    """Return decompositions that lead to one another, one that declines, and one of a view."""
    return {
        aten.silu.default: lambda x: x * aten.sigmoid(x),
        aten.sigmoid.default: lambda x: 1 / (1 + aten.exp(-x)),
        aten.sum.dim_IntList: lambda x, dims, *rest, **options: (
            aten.mean(aten.mul(x, x), dims) if dims == [0] else NotImplemented
        ),
        aten.sub.Tensor: lambda x, y, alpha=1: (
            NotImplemented if alpha != 1 else aten.add(x, aten.mul(y, -1))
        ),
        aten.t.default: lambda x: x.transpose(0, 0 if x.dim() < 2 else 1),
        aten.mean.dim: lambda x, dims, *rest, **options: NotImplemented,
    }


TABLES: dict[str, Callable[[], dict[Any, Any] | None]] = {
    "none": lambda: None,
    "core": functools.cache(core_aten_decompositions),
    "own": functools.cache(_own_table),
}
"""Decomposition tables, by name."""
