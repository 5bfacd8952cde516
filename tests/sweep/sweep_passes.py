"""Run the same passes on torch's pass base, on ExecuTorch's where it is installed, and on ours.

Every behaviour of `pass_behaviours` is put on each base and run on every graph of `pass_programs`:
tiny models of the transformers library, control flow, dynamic and data-dependent sizes, quantized
graphs and more. Graphs, metadata and source lines must be the same, and with and without reuse;
what torch's base refuses, ours may refuse as well. ::

    python tests/sweep/sweep_passes.py
    python tests/sweep/sweep_passes.py --only Retarget --programs gpt2 data
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from pass_behaviours import BEHAVIOURS, on
from pass_comparison import EXECUTORCH, TORCH, difference
from pass_programs import PROGRAMS
from torch._export.pass_base import _ExportPassBaseDeprecatedDoNotUse as TorchPass
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import GraphModule

from hopyard_export_pass import ExportPass, recompute_everything


def run(behaviour: type, base: type, make: Callable[[], GraphModule]) -> GraphModule | Exception:
    """Return what a behaviour on a base makes of a graph, or the exception that it raises."""
    try:
        with torch.no_grad():
            result: GraphModule = on(behaviour, base)(make()).graph_module
            return result
    except Exception as error:  # noqa: BLE001
        return error


def compared(behaviour: type, graph_module: GraphModule, base: type = TorchPass) -> str:
    """Return how our base differs from another with one behaviour on one graph; "" if not at all.

    Both get the graph itself: a pass leaves it as it is.
    """
    for node in graph_module.graph.nodes:
        if isinstance(node.meta.get("val"), FakeTensor):
            # torch's base would find in the values of inputs which symbols earlier passes have made
            # for them, and bind these nowhere.
            node.meta["val"].fake_mode.epoch += 1
            break
    theirs = run(behaviour, base, lambda: graph_module)
    ours = run(behaviour, ExportPass, lambda: graph_module)
    with recompute_everything():
        anew = run(behaviour, ExportPass, lambda: graph_module)
    if isinstance(ours, Exception) or isinstance(anew, Exception):
        if isinstance(ours, Exception) and isinstance(anew, Exception):
            return "" if isinstance(theirs, Exception) else f"ours raises {ours!r}"
        return f"ours raises {ours!r}, without reuse {anew!r}"
    again = run(behaviour, ExportPass, lambda: graph_module)
    if isinstance(again, Exception):
        return f"ours raises the second time: {again!r}"
    for name, made in (("without reuse", anew), ("a second time", again)):
        problem = difference(ours, made)
        if problem:
            return f"{name} (as theirs):\n{problem}"
    # Where the other base refuses and ours does not, there is nothing to compare.
    if isinstance(theirs, Exception):
        return ""
    return difference(ours, theirs, TORCH if base is TorchPass else EXECUTORCH)


def main() -> None:
    """Sweep, and exit with 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=list(BEHAVIOURS), choices=list(BEHAVIOURS))
    parser.add_argument("--programs", nargs="+", default=list(PROGRAMS), choices=list(PROGRAMS))
    parser.add_argument("--base", choices=("torch", "executorch"), default="torch")
    options = parser.parse_args()
    logging.disable(logging.ERROR)
    warnings.simplefilter("ignore")
    base: Any = TorchPass
    if options.base == "executorch":
        from executorch.exir.pass_base import ExportPass as base  # noqa: N813
    failures = 0
    for name in options.programs:
        start = time.perf_counter()
        graph_module = PROGRAMS[name]()
        problems = {each: compared(BEHAVIOURS[each], graph_module, base) for each in options.only}
        found = {each: problem for each, problem in problems.items() if problem}
        failures += len(found)
        print(
            f"{name:26}{len(graph_module.graph.nodes):6} nodes{len(problems):4} passes"
            f"{len(found):4} differ{time.perf_counter() - start:8.1f} s",
            flush=True,
        )
        for each, problem in found.items():
            print(f"    {each}: {problem}")
    print(f"{failures} differ")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
