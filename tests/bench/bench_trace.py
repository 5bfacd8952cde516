"""How much faster Hopyard captures than torch's make_fx, in one process and on one machine.

Three tables: speed (microseconds a node, the ratio to torch's, the same with Python code generated,
and the ratio to the program run without a graph), growth with the size of the program, and peak
memory. Graphs are compared in the same run. How times are taken is told in `timing.py`, and memory
in `memory.py`.

Without options one round of the shorter programs is timed, which takes a minute or two. `--full` is
what figures are told from: all programs, three rounds, all tables. ::

    python tests/bench/bench_trace.py --full --json results.json
    python tests/bench/bench_trace.py --modes symbolic --workloads gpt2-24 --tables speed
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import growth
import memory
import torch
from timing import compare
from workloads import WORKLOADS

Results = list[dict[str, Any]]

SHORT = ["chain-200", "chain-1000", "mixed-1000", "gpt2-4", "llama-4", "resnet-50", "mlp-training"]
"""One workload of each kind that takes seconds."""


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where to keep the results")
    parser.add_argument("--full", action="store_true", help="measure everything, in half an hour")
    parser.add_argument("--rounds", type=int, help="default: 1, in full 3")
    parser.add_argument("--modes", nargs="+", default=["fake", "real", "symbolic"])
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), help="default: short")
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), help="default: speed")
    options = parser.parse_args()
    options.rounds = options.rounds or (3 if options.full else 1)
    options.workloads = options.workloads or (list(WORKLOADS) if options.full else SHORT)
    options.tables = options.tables or (list(TABLES) if options.full else ["speed"])
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)

    results = {name: TABLES[name](options) for name in options.tables}
    if options.json:
        machine = {"torch": torch.__version__, "python": platform.python_version()}
        options.json.write_text(json.dumps({"machine": machine, **results}, indent=2))


def speed(options: argparse.Namespace) -> Results:
    """Time each workload in each mode."""
    print(
        f"{'speed':16}{'mode':10}{'nodes':>6}{'torch':>11}{'ours':>11}"
        f"{'ratio':>9}{'with code':>11}{'over alone':>12}"
    )
    results = []
    for mode in options.modes:
        for name in options.workloads:
            workload = WORKLOADS[name]()
            timed = compare(workload, mode, options.rounds)
            result = {
                "workload": name,
                "family": workload.family,
                "mode": mode,
                "nodes": timed.nodes,
                "torch_us": timed.micros_a_node("torch"),
                "ours_us": timed.micros_a_node("ours"),
                "ratio": timed.ratio,
                "ratio_with_code": timed.ratio_with_code,
                "over_alone": timed.over_alone,
                "same_graph": timed.same_graph,
            }
            results.append(result)
            print(
                f"{name:16}{mode:10}{timed.nodes:6}{result['torch_us']:8.1f} us"
                f"{result['ours_us']:8.1f} us{timed.ratio:8.2f}x{timed.ratio_with_code:10.2f}x"
                f"{timed.over_alone:11.2f}x{_verdict(result)}",
                flush=True,
            )
    return results


def growing(options: argparse.Namespace) -> Results:
    """Time each series of programs in the modes that can capture it."""
    print(f"\n{'growth with':24}{'mode':10}{'tracer':8}{'seconds at each size':36}{'power':>7}")
    results = []
    for series in growth.SERIES:
        for mode in [mode for mode in series.modes if mode in options.modes]:
            result = growth.measure(series, mode, options.rounds)
            results.append(result)
            for tracer in ("torch", "ours"):
                steps = zip(result["sizes"], result[f"{tracer}_seconds"], strict=True)
                listed = "  ".join(f"{size}: {seconds:.4f}" for size, seconds in steps)
                print(
                    f"{series.size:24}{mode:10}{tracer:8}{listed:36}"
                    f"{result[f'{tracer}_power']:7.2f}{_verdict(result)}",
                    flush=True,
                )
    return results


def peaks(options: argparse.Namespace) -> Results:
    """Measure the memory of some workloads, where the system tells it."""
    if sys.platform != "linux":
        return []
    columns = ("torch_mib", "ours_mib", "torch_mib_with_code", "ours_mib_with_code")
    headings = ("torch", "ours", "torch, code", "ours, code")
    print(f"\n{'peak memory':16}{'mode':10}" + "".join(f"{heading:>16}" for heading in headings))
    results = []
    for mode in options.modes:
        for name in [name for name in memory.MEASURED if name in options.workloads]:
            result = memory.measure(name, mode)
            results.append(result)
            sizes = "".join(f"{result[column]:12.1f} MiB" for column in columns)
            print(f"{name:16}{mode:10}{sizes}", flush=True)
    return results


TABLES: dict[str, Callable[[argparse.Namespace], Results]] = {
    "speed": speed,
    "growth": growing,
    "memory": peaks,
}
"""What fills each table."""


def _verdict(result: dict[str, Any]) -> str:
    return "" if result["same_graph"] else "   GRAPHS DIFFER"


if __name__ == "__main__":
    main()
