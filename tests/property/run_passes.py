"""Run many random sequences of passes, or pipelines of standard ones, on programs of many kinds.

What makes a program compute anything else, or leaves stale metadata, is made as short as possible
and printed. ::

    python tests/property/run_passes.py sequences --count 2000
    python tests/property/run_passes.py pipelines --count 200 --kind branching --seed 7
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings

import torch
from hypothesis import seed
from subjects import SUBJECTS, new_session


def main() -> int:
    """Run as many examples as the command line asks for; return how many kinds failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subject", choices=list(SUBJECTS))
    parser.add_argument("--count", type=int, default=1000, help="examples in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", nargs="+", help="of program; default: all")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    subject, session = SUBJECTS[options.subject], new_session()
    names = options.kind or list(subject.kinds)
    failures = 0
    each = -(-options.count // len(names))
    for name in names:
        start = time.perf_counter()
        attempt = subject.test(
            session, subject.kinds[name], subject.most, max_examples=each, database=None
        )
        try:
            seed(options.seed)(attempt)()
        except Exception as error:  # noqa: BLE001 - whatever a pass raises is what is looked for
            failures += 1
            print(f"{name} --seed {options.seed}: {error!r}")
            print("\n".join(getattr(error, "__notes__", [])))
        seconds = time.perf_counter() - start
        print(f"{name:26}{each:6} {options.subject} {seconds:6.0f} s", flush=True)
    print(f"{failures} of {len(names)} kinds fail")
    return failures


if __name__ == "__main__":
    sys.exit(main())
