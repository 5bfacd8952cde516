"""Compare captures of many random programs.

If programs of a chunk differ, the smallest one that does is printed. ::

    python tests/property/run_programs.py --count 20000
    python tests/property/run_programs.py --count 500 --seed 7 --mode real --mode fake
    python tests/property/run_programs.py --count 500 --sizes
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

sys.path.append(str(Path(__file__).parents[1] / "sweep"))

from agreement import add_modes, chosen_modes
from programs import Recipe
from resized import ACCEPTED
from strategies import SIZED_MODES, check, recipes

CHUNK = 500


def main() -> int:
    """Run as many programs as the command line asks for; return how many chunks failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1, help="of the first chunk")
    parser.add_argument(
        "--sizes", action="store_true", help="programs about sizes, run at other sizes as well"
    )
    add_modes(parser)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    kind = "sizes" if options.sizes else "plain"
    modes = SIZED_MODES if options.sizes and not options.mode else chosen_modes(options)
    start = time.perf_counter()
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    resized: Counter[str] = Counter()
    failures = 0
    for index, done in enumerate(range(0, options.count, CHUNK)):
        size = min(CHUNK, options.count - done)
        try:
            run_chunk(options.seed + index, size, kind, modes, counts, reasons, resized)
        except AssertionError as error:
            failures += 1
            repeated = " --sizes" * options.sizes + "".join(
                f" --mode '{mode}'" for mode in options.mode or ()
            )
            print(f"--count {size} --seed {options.seed + index}{repeated}\n{error}\n")
        seconds = time.perf_counter() - start
        programs = counts.total() // len(modes)
        print(f"{programs} programs, {failures} chunks fail, {seconds:.0f} s", flush=True)
    for outcome, count in counts.items():
        print(f"{count:8} {outcome}")
    for reason, count in reasons.items():
        print(f"{count:8} not compared with the program's own numbers: {reason}")
    for came, count in resized.items():
        print(f"{count:8} inputs of other sizes, {came}")
    return failures


def run_chunk(
    number: int,
    size: int,
    kind: str,
    modes: Sequence[str],
    counts: Counter[str],
    reasons: Counter[str],
    resized: Counter[str],
) -> None:
    """Check `size` programs in `modes`; a failing one is made small before it is shown.

    Raises:
        AssertionError: Some program fails.
    """

    @seed(number)
    @settings(
        max_examples=size,
        database=None,
        deadline=None,
        derandomize=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(recipes(kind))
    def chunk(recipe: Recipe) -> None:
        for mode, verdict in check(recipe, modes).items():
            counts[f"{mode}: {verdict.outcome.value}"] += 1
            if verdict.not_computed:
                reasons[verdict.not_computed] += 1
            for came, times in verdict.resized.items():
                resized[f"{mode}: {came}"] += times
                if came == ACCEPTED and times >= 3:
                    resized[f"{mode}: programs right at three other sizes or more"] += 1

    chunk()


if __name__ == "__main__":
    sys.exit(min(main(), 1))
