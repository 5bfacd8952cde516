"""What safeguards add to the time of a capture: all that are installed, against none.

Both sessions capture the tracer's benchmark programs in turn, in one process, in CPU time of the
process, with torch's process-wide cache of fake results cleared before each. The overhead of a
program is the median over rounds of what the second capture of a pair takes longer; the order
within pairs alternates.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import platform
import statistics
import time
import warnings
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from workloads import Workload, gpt2, llama, mlp_training, pointwise_chain, resnet50

import hopyard
from hopyard_hookspecs import Policy

WORKLOADS = {
    "gpt2-4": lambda: gpt2(4),
    "gpt2-24": lambda: gpt2(24),
    "llama-4": lambda: llama(4),
    "resnet50": resnet50,
    "mlp-training": lambda: mlp_training(20),
    "chain-1000": lambda: pointwise_chain(1000),
}


def main() -> None:
    """Time the programs that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where to keep the results")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS))
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    sessions = {"off": hopyard.Session(discover=False), "on": hopyard.Session()}
    print(f"safeguards: {', '.join(sessions['on'].safeguards)}")
    results = []
    for name in options.workloads:
        pairs = measure(WORKLOADS[name](), sessions, options.rounds)
        overhead = statistics.median(pair["on"] / pair["off"] for pair in pairs) - 1
        off = statistics.median(pair["off"] for pair in pairs)
        results.append({"workload": name, "off": off, "overhead": overhead})
        print(f"{name:14}{off * 1e3:9.1f} ms {overhead:+8.1%}", flush=True)
    overall = statistics.median(result["overhead"] for result in results)
    print(f"median {overall:+.1%}, most {max(result['overhead'] for result in results):+.1%}")
    if options.json:
        machine = {"torch": torch.__version__, "python": platform.python_version()}
        options.json.write_text(json.dumps({"machine": machine, "results": results}, indent=2))


def measure(
    workload: Workload, sessions: dict[str, hopyard.Session], rounds: int
) -> list[dict[str, float]]:
    """Return the CPU seconds of each round's two captures; the first round only warms up."""
    pairs = []
    for turn in range(rounds + 1):
        order = list(sessions)[:: 1 if turn % 2 else -1]
        pairs.append({who: seconds(workload, sessions[who]) for who in order})
    return pairs[1:]


def seconds(workload: Workload, session: hopyard.Session) -> float:
    """Return the CPU seconds of one capture, from cold."""
    FakeTensorMode.cache_clear()
    gc.collect()
    start = time.process_time()
    session.capture(workload.function, workload.inputs, policy=Policy.IGNORE)
    return time.process_time() - start


if __name__ == "__main__":
    main()
