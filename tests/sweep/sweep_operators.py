"""Capture every operator of torch's own test suite with torch's tracer and with ours.

Each sample of inputs is captured in two forms: `once`, the operator alone, and `again`, three calls
in a row, of which the later ones can come from the tracer's memory. Graphs, metadata, names and
generated code must be the same, and both graphs must compute the same numbers. ::

    python tests/sweep/sweep_operators.py
    python tests/sweep/sweep_operators.py --only nn.functional.gelu --mode fake
"""

from __future__ import annotations

import argparse
import itertools
import logging
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from agreement import MODES, Outcome, Verdict, add_modes, chosen_modes, compare
from running import SEED
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

DATABASES = ("operators", "custom operators", "higher-order operators")
FORMS = ("once", "again")

KNOWN: dict[tuple[str, str], str] = {}
"""Differences that are defects of torch, by operator and mode, each with the reason."""


Sample = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
"""An operator and what it is called with."""


@dataclass(frozen=True, slots=True)
class Case:
    """One sample of inputs of one operator, in one form and mode."""

    database: str
    name: str
    sample: int
    form: str
    mode: str

    @property
    def command(self) -> str:
        """What runs this case alone."""
        return f'python tests/sweep/sweep_operators.py --only "{self.name}" --mode {self.mode}'


def main() -> int:
    """Run the sweep that the command line asks for; return how many cases differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sample", type=int, help="so many operators, chosen at random but always alike"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="these operators, variants included"
    )
    add_modes(parser)
    parser.add_argument("--database", choices=DATABASES, action="append", help="default: all")
    parser.add_argument("--samples", type=int, default=2, help="samples of inputs per operator")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    start = time.perf_counter()
    results: dict[Case, Verdict] = {}
    for database in options.database or DATABASES:
        entries = chosen(database, options.only, options.sample)
        results.update(sweep(database, entries, chosen_modes(options), options.samples))
    report(results)
    print(f"{len(results)} comparisons in {time.perf_counter() - start:.0f} s")
    return sum(1 for case, verdict in results.items() if is_failure(case, verdict))


def chosen(database: str, only: list[str] | None = None, count: int | None = None) -> list[Any]:
    """Return the operators of a database: all, those of these names, or `count` of them."""
    entries = _entries(database)
    if only:
        return [entry for entry in entries if entry.name in only or _named(entry) in only]
    if count is not None:
        return random.Random(SEED).sample(entries, min(count, len(entries)))
    return entries


def sweep(
    database: str, entries: list[Any], modes: tuple[str, ...], samples: int
) -> Iterator[tuple[Case, Verdict]]:
    """Compare the captures of `entries`, one case after the other."""
    for entry in entries:
        name = _named(entry)
        for index, sample in enumerate(_samples(entry, samples)):
            for form, mode in itertools.product(FORMS, modes):
                operator, inputs = _as_function(sample, integers=mode == "integers")
                function = operator if form == "once" else repeated(operator)
                yield Case(database, name, index, form, mode), compare(function, inputs, mode)


def is_failure(case: Case, verdict: Verdict) -> bool:
    """Whether a case differs and nobody has explained why."""
    return not verdict.outcome.agrees and (case.name, case.mode) not in KNOWN


def repeated(operator: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that applies `operator` twice to its arguments and once to equal ones."""

    def function(*inputs: Any) -> Any:
        first = operator(*inputs)
        second = operator(*inputs)
        alike = [each.clone() if isinstance(each, Tensor) else each for each in inputs]
        return first, second, operator(*alike)

    return function


def report(results: dict[Case, Verdict]) -> None:
    """Print what agreed, what was not computed, and what differs."""
    print(f"{'':24}{'mode':22}{'form':7}" + "".join(f"{each.value:>21}" for each in Outcome))
    for database, mode, form in itertools.product(DATABASES, MODES, FORMS):
        found = [
            verdict
            for case, verdict in results.items()
            if (case.database, case.mode, case.form) == (database, mode, form)
        ]
        if found:
            counts = Counter(verdict.outcome for verdict in found)
            numbers = "".join(f"{counts[each]:21}" for each in Outcome)
            print(f"{database:24}{mode:22}{form:7}{numbers}")
    reasons = Counter(v.not_computed for v in results.values() if v.not_computed)
    for reason, count in reasons.items():
        print(f"numbers not compared in {count} cases: {reason}")
    # What differs in one way in several forms and samples is told once.
    alike: dict[tuple[str, str, str], list[Case]] = {}
    for case, verdict in results.items():
        if not verdict.outcome.agrees:
            alike.setdefault((case.name, case.mode, verdict.detail), []).append(case)
    for (name, mode, detail), cases in alike.items():
        outcome = results[cases[0]].outcome.value
        where = ", ".join(f"{case.form} {case.sample}" for case in cases)
        print(f"\n{name}, {mode} ({where}): {outcome}")
        print(f"  {KNOWN.get((name, mode), cases[0].command)}\n  {detail[:800]}")


def _entries(database: str) -> list[Any]:
    # Each of these modules takes seconds to import.
    if database == "operators":
        from torch.testing._internal.common_methods_invocations import op_db as entries
    elif database == "custom operators":
        from torch.testing._internal.custom_op_db import custom_op_db as entries
    else:
        from torch.testing._internal.hop_db import hop_db as entries
    return list(entries)


def _named(entry: Any) -> str:
    return f"{entry.name}.{entry.variant_test_name}".strip(".")


def _samples(entry: Any, count: int) -> Iterator[Sample]:
    supported = entry.supported_dtypes("cpu")
    if not supported:
        return
    order = sorted(supported, key=str)
    dtype = torch.float32 if torch.float32 in supported else order[0]
    torch.manual_seed(SEED)
    try:
        # All of them: torch's generators restore the grad mode when they end. One that the garbage
        # collector ends in the middle of a capture would have that recorded.
        samples = list(entry.sample_inputs("cpu", dtype))[:count]
    except Exception as error:  # noqa: BLE001
        print(
            f"{_named(entry)} has no samples here: {type(error).__name__}: {error}", file=sys.stderr
        )
        return
    for sample in samples:
        yield entry.op, (sample.input, *sample.args), sample.kwargs


def _as_function(sample: Sample, *, integers: bool) -> tuple[Callable[..., Any], list[Any]]:
    """Return an operator as a function of tensors, and of integers if asked for, and these."""
    operator, args, kwargs = sample
    leaves, spec = tree_flatten((args, kwargs))
    places = [
        index
        for index, leaf in enumerate(leaves)
        if isinstance(leaf, Tensor) or (integers and type(leaf) is int)
    ]

    def function(*inputs: Any) -> Any:
        filled = list(leaves)
        for place, value in zip(places, inputs, strict=True):
            filled[place] = value
        given, keywords = tree_unflatten(filled, spec)
        return operator(*given, **keywords)

    return function, [leaves[place] for place in places]


if __name__ == "__main__":
    sys.exit(min(main(), 1))
