"""Random programs for hypothesis, and what must be true of each."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from agreement import HIDDEN, MODES, PRE_DISPATCH, Outcome, Verdict, compare
from hypothesis import strategies as st
from programs import VOCABULARIES, Instruction, Program, Recipe, assemble
from torch._decomp import core_aten_decompositions

aten = torch.ops.aten

LONGEST = 14
TOLERANCE = 1e-5
"""How far numbers of programs about sizes may be from the program's, which sums in other orders."""
SIZED_MODES = ("symbolic", "integers", PRE_DISPATCH + "fake", PRE_DISPATCH + "symbolic")
"""How programs about sizes are captured; only with "symbolic" are integers no inputs."""
ROUNDS = "a decomposition rounds in another way"
TORCH_REFUSES = {
    re.compile("is not tracked with proxy"): "a number that became known after torch computed it",
}
"""Why torch's tracer fails where ours does not, by its message."""
_BELOW = re.compile(r"torch\.func\b|vmap|jvp|backward\(|\.(data|grad)\b|_grad\(")
"""What makes tensors that a capture above autograd does not see."""


def recipes(kind: str = "plain") -> st.SearchStrategy[Recipe]:
    """Return programs of some lines; one in five has a decomposition table.

    Sizes have a meaning in a vocabulary that names them.
    """
    vocabulary = VOCABULARIES[kind]
    numbers = st.lists(st.integers(0, 23), max_size=6).map(tuple)
    anything = st.builds(Instruction, st.integers(0, vocabulary.lines - 1), numbers)
    repeated = st.builds(Instruction, st.just(0), numbers)
    line = st.one_of(anything, anything, anything, repeated)
    block = line
    for _ in range(2):
        body = st.lists(block, min_size=1, max_size=5).map(tuple)
        blocks = st.builds(Instruction, st.integers(0, len(vocabulary.blocks) - 1), numbers, body)
        block = st.one_of(*[line] * 9, blocks)
    return st.builds(
        Recipe,
        st.lists(st.integers(0, len(vocabulary.inputs) - 1), min_size=1, max_size=3).map(tuple),
        st.lists(block, min_size=1, max_size=LONGEST).map(tuple),
        st.sampled_from(("none",) * 8 + ("core", "own")),
        st.just(kind),
        st.tuples(*[st.integers(2, 6)] * 3) if kind == "sizes" else st.just(()),
    )


def verdicts(recipe: Recipe, modes: Sequence[str] = MODES) -> tuple[Program, dict[str, Verdict]]:
    """Return a program and how its captures compare, by mode."""
    resized = other_sizes(recipe.sizes) if recipe.vocabulary == "sizes" else ()
    program = assemble(recipe, resized)
    table = TABLES[recipe.table]()
    reason = program.not_computed or (ROUNDS if table else "")
    found = {}
    for mode in modes:
        seen = program if mode != "symbolic" else without_integers(program)
        found[mode] = compare(
            seen.function,
            seen.inputs,
            mode,
            decompositions=table,
            eager=True,
            others=seen.others,
            tolerance=TOLERANCE if recipe.vocabulary == "sizes" else 0.0,
            not_computed=reason or _hidden(program, mode),
            resized=seen.resized,
        )
    return program, found


def other_sizes(sizes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return other sizes: some more of each, twice as many, none, one, and all alike."""
    a, b, c = sizes
    return [
        (a + 1, b + 1, c + 1),
        (2 * a, 2 * b, 2 * c),
        (a + 2, b, c),
        (a, b + 3, c),
        (a + 6, b + 4, c + 2),
        (c + 7, a + 9, b + 8),
        (1, b, c),
        (a, 0, c),
        (a, a, a),
        (8, 8, 8),
    ]


def without_integers(program: Program) -> Program:
    """Return a program with the integers among its inputs as part of it."""
    places = [
        place for place, value in enumerate(program.inputs) if isinstance(value, torch.Tensor)
    ]

    def tensors(inputs: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(inputs[place] for place in places)

    def function(*inputs: Any) -> Any:
        given = list(program.inputs)
        for place, value in zip(places, inputs, strict=True):
            given[place] = value
        return program.function(*given)

    return dataclasses.replace(
        program,
        function=function,
        inputs=tensors(program.inputs),
        others=tensors(program.others),
        resized=tuple(map(tensors, program.resized)),
    )


def _hidden(program: Program, mode: str) -> str:
    hidden = mode.startswith(PRE_DISPATCH) and _BELOW.search(program.source)
    return HIDDEN if hidden else ""


def check(recipe: Recipe, modes: Sequence[str] = MODES) -> dict[str, Verdict]:
    """Check that both tracers agree on a program and that its graph computes what it does.

    Raises:
        AssertionError: They do not; the message is a program to run.
    """
    program, found = verdicts(recipe, modes)
    kinds = VOCABULARIES[recipe.vocabulary].inputs
    for mode, verdict in found.items():
        assert verdict.outcome.agrees or is_known(verdict), (
            f"{mode}, decomposition table {recipe.table!r}, inputs "
            f"{', '.join(kinds[kind] for kind in recipe.inputs)} {recipe.sizes}:\n\n"
            f"{program.source}\n"
            f"{verdict.outcome.value}: {verdict.detail}"
        )
    return found


def is_known(verdict: Verdict) -> bool:
    """Say whether torch alone fails, for a known reason."""
    return verdict.outcome is Outcome.ONLY_TORCHS_RAISES and any(
        message.search(verdict.detail) for message in TORCH_REFUSES
    )


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
