"""Run many random sequences of passes on programs of many kinds.

A sequence after which a program computes anything else, or metadata is stale, is made as short as
possible and printed. ::

    python tests/property/run_passes.py --count 2000
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings

import torch
from hypothesis import HealthCheck, given, seed, settings
from pass_sequences import check_sequence, sequences
from pipelines import KINDS

from hopyard import Session
from hopyard_export_pass import ExportPass, _plugin


def main() -> int:
    """Run as many sequences as the command line asks for; return how many kinds failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="sequences in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", nargs="+", default=list(KINDS), choices=list(KINDS))
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    session = Session(discover=False, plugins=[_plugin])
    failures = 0
    each = -(-options.count // len(options.kind))
    for name in options.kind:
        start = time.perf_counter()
        try:
            run(session, name, each, options.seed)
        except Exception as error:  # noqa: BLE001 - whatever a pass raises is what is looked for
            failures += 1
            print(f"{name} --seed {options.seed}: {error!r}")
            print("\n".join(getattr(error, "__notes__", [])))
        print(f"{name:26}{each:6} sequences {time.perf_counter() - start:6.0f} s", flush=True)
    print(f"{failures} of {len(options.kind)} kinds fail")
    return failures


def run(session: Session, name: str, count: int, start: int) -> None:
    """Run sequences on one kind of program.

    Raises:
        AssertionError: A program computes something else; notes tell the shortest such sequence.
    """

    @seed(start)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(sequences(6))
    def attempt(passes: list[ExportPass]) -> None:
        check_sequence(session, KINDS[name], passes)

    attempt()


if __name__ == "__main__":
    sys.exit(main())
