"""How much faster Hopyard captures than torch's make_fx, in one process and on one machine.

Each capture is timed in CPU time of the process, ours and torch's in turn, with torch's
process-wide cache of fake results cleared before each, so that both start cold. Graphs are compared
in the same run. The ratio is the median of the ratios of the rounds. "with code" adds the
generation of Python code, which ours leaves until somebody reads or runs it and torch's does as
well, lazily.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx
from workloads import WORKLOADS, Workload

import hopyard


def main() -> None:
    """Time the workloads that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where to keep the results")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--modes", nargs="+", default=["fake", "real"])
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS))
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)

    results = []
    headings = ("nodes", "torch", "ours", "ratio", "with code")
    print(f"{'workload':16}{'mode':6}" + "".join(f"{heading:>11}" for heading in headings))
    for mode in options.modes:
        for name in options.workloads:
            result = {
                "workload": name,
                "mode": mode,
                **measure(WORKLOADS[name](), mode, options.rounds),
            }
            results.append(result)
            times = "".join(f"{result[key]:8.1f} us" for key in ("torch_us", "ours_us"))
            ratios = "".join(f"{result[key]:10.2f}x" for key in ("ratio", "ratio_with_code"))
            verdict = "" if result["same_graph"] else "   GRAPHS DIFFER"
            print(f"{name:16}{mode:6}{result['nodes']:11}{times}{ratios}{verdict}", flush=True)
    if options.json:
        machine = {"torch": torch.__version__, "python": platform.python_version()}
        options.json.write_text(json.dumps({"machine": machine, "results": results}, indent=2))


def measure(workload: Workload, mode: str, rounds: int) -> dict[str, Any]:
    """Return times in microseconds a node, and ratios, of one workload."""
    captures = {"torch": torch_make_fx, "ours": hopyard.make_fx}
    seconds: dict[str, list[float]] = {name: [] for name in captures}
    with_code: dict[str, list[float]] = {name: [] for name in captures}
    graphs: dict[str, GraphModule] = {}
    for index in range(rounds + 1):
        for name, make_fx in captures.items():
            traced, capture_time, code_time = timed(make_fx, workload, mode)
            graphs[name] = traced
            if index:
                seconds[name].append(capture_time)
                with_code[name].append(capture_time + code_time)
    nodes = len(graphs["torch"].graph.nodes)
    return {
        "family": workload.family,
        "nodes": nodes,
        "torch_us": statistics.median(seconds["torch"]) / nodes * 1e6,
        "ours_us": statistics.median(seconds["ours"]) / nodes * 1e6,
        "ratio": _median_ratio(seconds),
        "ratio_with_code": _median_ratio(with_code),
        "same_graph": graphs["torch"].code == graphs["ours"].code,
    }


def timed(
    make_fx: Callable[..., Any], workload: Workload, mode: str
) -> tuple[GraphModule, float, float]:
    """Capture once, cold; return the graph and the CPU seconds of capture and of its code."""
    FakeTensorMode.cache_clear()
    gc.collect()
    capture = make_fx(workload.function, tracing_mode=mode)
    start = time.process_time()
    traced = capture(*workload.inputs)
    captured = time.process_time()
    _ = traced.code
    return traced, captured - start, time.process_time() - captured


def _median_ratio(seconds: dict[str, list[float]]) -> float:
    return statistics.median(
        torch_time / ours
        for torch_time, ours in zip(seconds["torch"], seconds["ours"], strict=True)
    )


if __name__ == "__main__":
    main()
