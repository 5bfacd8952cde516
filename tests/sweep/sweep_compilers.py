"""Compile programs with AOTInductor and compare what the compiled code does with eager.

Every size is dynamic that may be, and calls have other sizes than the example. A compiler of C++ is
needed; each module takes it some seconds. ::

    python tests/sweep/sweep_compilers.py
    python tests/sweep/sweep_compilers.py --only attention
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from dynamic_sizes import enlarged, ranges_of
from sweep_programs import Row, calls_for, calls_of, compare, first_line, made, sizes_asked
from torch._inductor import aoti_compile_and_package, aoti_load_package

import hopyard

NAMES = ("keywords", "containers", "tied", "batch-norm-training", "through-views", "attention")


def main() -> int:
    """Compile the modules that the command line names; return how many fail."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            start = time.perf_counter()
            try:
                problem, count = "", check(name, Path(folder))
            except Exception as error:  # noqa: BLE001
                problem, count = first_line(error), 0
            failures += bool(problem)
            seconds = time.perf_counter() - start
            print(
                f"{name:24}{count:3} dynamic sizes {seconds:6.1f} s  {problem or 'ok'}", flush=True
            )
    print(f"{len(options.only)} modules, {failures} fail")
    return failures


def check(name: str, folder: Path) -> int:
    """Compile one module, compare two calls with eager, and return how many sizes are dynamic.

    Raises:
        Exception: They differ, or the compiler refuses the program.
    """
    model, calls = made(name)
    given = enlarged(calls[0])
    row = Row(name, is_dynamic=True, about="")
    with torch.no_grad():
        row.program = hopyard.Session(discover=False).capture(
            model, *given, **sizes_asked(name, is_dynamic=True)
        )
        package = aoti_compile_and_package(
            row.program.to_exported_program(), package_path=str(folder / f"{name}.pt2")
        )
        compiled: Any = aoti_load_package(package)
    eager_model, _ = made(name)
    eager = calls_of(eager_model, calls_for(row, name), eager_model.state_dict)
    # The state lives in the compiled code; changes of it show in what the second call returns.
    compare(eager, calls_of(compiled, calls_for(row, name), dict))
    return len(ranges_of(row.program))


if __name__ == "__main__":
    sys.exit(min(main(), 1))
