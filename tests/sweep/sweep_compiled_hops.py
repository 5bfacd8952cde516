"""Every kind of operator on every surface, compilers among them, with and without a closure. ::

python tests/sweep/sweep_compiled_hops.py
python tests/sweep/sweep_compiled_hops.py --operators strict_mode --fast

A surface is one of `hopyard.testing.HopContract`: it compares results and gradients with those of
eager execution and looks for the region in what was recorded. It takes a C++ compiler and minutes.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from regions import BODIES, OPERATORS, TORCH_CANNOT, sample

from hopyard.testing import check_hop


def main() -> None:
    """Check the operators and exit with 1 if one does anything but what is known of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operators", nargs="+", default=list(OPERATORS), choices=list(OPERATORS))
    parser.add_argument("--fast", action="store_true", help="leave out Inductor and AOTInductor")
    options = parser.parse_args()
    failures = 0
    for name in options.operators:
        operator, _ = OPERATORS[name]
        for body in BODIES:
            start = time.monotonic()
            verdicts = check_hop(operator, [sample(name, body)], slow=not options.fast)
            known = TORCH_CANNOT.get(name, {})
            problems = [
                str(each) for each in verdicts if bool(each.problem) != (each.surface in known)
            ]
            failures += len(problems)
            seconds = time.monotonic() - start
            kept = len(verdicts) - len(problems)
            print(f"{name}, {body}: {kept} of {len(verdicts)} surfaces, {seconds:.0f} s")
            print(*(f"  {problem}" for problem in problems), sep="\n", end="\n" if problems else "")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
