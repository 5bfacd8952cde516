"""What verification costs beside one replay of torch's pass base.

Each graph is verified whole, as after a pass that changed everything; after a pass that changed
every fourth node, since the graph before it; and after a pass that changed nothing. The replay is
torch's own base with nothing overridden. All are timed in turn, in one process, in CPU time of the
process; ratios are medians of the rounds. The goal is that a graph of about 1,000 nodes is verified
in less than 15 % of the time of one replay: what a graph costs depends on how many different calls
it has, of which a short one has more to the node.
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
from torch._export.pass_base import _ExportPassBaseDeprecatedDoNotUse as TorchPass
from torch.fx import GraphModule
from workloads import Workload, gpt2, llama, mixed_chain, pointwise_chain, resnet50, resnet101

import hopyard
from hopyard._graph_copy import copy_graph_module
from hopyard.verify import count_nodes, verify
from hopyard_hookspecs import Policy

GOAL = 0.15
FEWEST = 800
WORKLOADS: dict[str, Callable[[], Workload]] = {
    "chain-200": lambda: pointwise_chain(200),
    "chain-1000": lambda: pointwise_chain(1000),
    "chain-4000": lambda: pointwise_chain(4000),
    "mixed-1000": lambda: mixed_chain(1000),
    "gpt2-12": lambda: gpt2(12),
    "llama-9": lambda: llama(9),
    "resnet50": resnet50,
    "resnet101": resnet101,
}


def main() -> None:
    """Time the programs that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where to keep the results")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS))
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    results = []
    print(f"{'graph':12}{'nodes':>7}{'replay':>11}{'whole':>9}{'quarter':>9}{'nothing':>9}")
    for name in options.workloads:
        result = measure(name, WORKLOADS[name](), options.rounds)
        results.append(result)
        shares = "".join(f"{result[what]:9.1%}" for what in ("whole", "quarter", "nothing"))
        replay = result["replay"] / result["nodes"] * 1e6
        print(f"{name:12}{result['nodes']:7}{replay:7.0f} us/n{shares}", flush=True)
    judged = [result for result in results if result["nodes"] >= FEWEST]
    met = all(result["whole"] < GOAL for result in judged)
    print(f"goal {'met' if met else 'missed'}: {len(judged)} whole graphs below {GOAL:.0%}")
    if options.json:
        machine = {"torch": torch.__version__, "python": platform.python_version()}
        options.json.write_text(json.dumps({"machine": machine, "results": results}, indent=2))


def measure(name: str, workload: Workload, rounds: int) -> dict[str, Any]:
    """Return shares of a replay's time, by what was verified; the first round only warms up."""
    session = hopyard.Session(discover=False)
    with torch.no_grad():
        captured = session.capture(workload.function, workload.inputs, policy=Policy.IGNORE)
    before = captured.graph_module
    quarter = edited(before)
    same = copy_graph_module(before)
    tasks: dict[str, Callable[[], object]] = {
        "whole": lambda: verify(before, propagate=True),
        "quarter": lambda: verify(quarter, propagate=True, since=before),
        "nothing": lambda: verify(same, propagate=True, since=before),
        "replay": lambda: TorchPass()(before),
    }
    seconds: dict[str, list[float]] = {task: [] for task in tasks}
    for turn in range(rounds + 1):
        for task, run in tasks.items():
            gc.collect()
            start = time.process_time()
            run()
            spent = time.process_time() - start
            if turn:
                seconds[task].append(spent)
    shares = {
        task: statistics.median(
            one / replay for one, replay in zip(each, seconds["replay"], strict=True)
        )
        for task, each in seconds.items()
    }
    nodes = count_nodes(before)
    return {**shares, "graph": name, "nodes": nodes, "replay": statistics.median(seconds["replay"])}


def edited(graph_module: GraphModule) -> GraphModule:
    """Return a copy in which every fourth call stands under another name, as if it were new."""
    made = copy_graph_module(graph_module)
    calls = [node for node in made.graph.nodes if node.op == "call_function"]
    for node in calls[::4]:
        node.name = f"{node.name}_new"
    return made


if __name__ == "__main__":
    main()
