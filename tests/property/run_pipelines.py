"""Run many random pipelines of standard passes on programs of many kinds.

A pipeline after which a program computes anything else is made as short as possible and printed. ::

    python tests/property/run_pipelines.py --count 2000
    python tests/property/run_pipelines.py --count 200 --kind branching --seed 7
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings

import torch
from hypothesis import HealthCheck, given, seed, settings
from pipelines import KINDS, MODELS, Kind, check, pipelines

from hopyard import Pipeline, Session
from hopyard_export_pass import _plugin

ALL = {**KINDS, **MODELS}


def main() -> int:
    """Run as many pipelines as the command line asks for; return how many kinds failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="pipelines in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", nargs="+", default=list(ALL), choices=list(ALL))
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
            run(session, ALL[name], each, options.seed)
        except Exception as error:  # noqa: BLE001 - whatever a pass raises is what is looked for
            failures += 1
            print(f"{name} --seed {options.seed}: {error}\n" + "\n".join(notes(error)))
        print(f"{name:26}{each:6} pipelines {time.perf_counter() - start:6.0f} s", flush=True)
    print(f"{failures} of {len(options.kind)} kinds fail")
    return failures


def run(session: Session, kind: Kind, count: int, start: int) -> None:
    """Run pipelines on one kind of program.

    Raises:
        AssertionError: A program computes something else; notes tell the shortest such pipeline.
    """

    @seed(start)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(pipelines(decompose=not kind.random, most=8))
    def attempt(pipeline: Pipeline) -> None:
        check(session, kind, pipeline)

    attempt()


def notes(error: BaseException) -> list[str]:
    """Return what hypothesis tells of the pipeline."""
    return list(getattr(error, "__notes__", []))


if __name__ == "__main__":
    sys.exit(main())
