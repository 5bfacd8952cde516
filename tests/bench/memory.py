"""How much memory a capture takes at its peak.

Each capture runs in a process of its own, after a capture of another program that imports what is
imported lazily; its peak is by how much the process grew. Run as a script, this module is such a
process. Only Linux tells what it needs.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from timing import TRACERS
from workloads import WORKLOADS, pointwise_chain

MEASURED = ("chain-4000", "llama-24", "gpt2-training")
"""The workloads whose memory is measured: each costs a process for each tracer."""


def measure(workload: str, mode: str) -> dict[str, Any]:
    """Return the peak memory of both tracers in MiB, lazily and with the code generated."""
    result: dict[str, Any] = {"workload": workload, "mode": mode}
    for tracer in TRACERS:
        command = [sys.executable, __file__, tracer, workload, mode]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        for name, size in json.loads(output).items():
            result[f"{tracer}_{name}"] = size
    return result


def main() -> None:
    """Measure one capture in this process and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tracer", choices=list(TRACERS))
    parser.add_argument("workload", choices=list(WORKLOADS))
    parser.add_argument("mode")
    options = parser.parse_args()
    workload = WORKLOADS[options.workload]()
    make_fx = TRACERS[options.tracer]
    small = pointwise_chain(40)
    _ = make_fx(small.function, tracing_mode=options.mode)(*small.inputs).code
    gc.collect()

    before = peak()
    traced = make_fx(workload.function, tracing_mode=options.mode)(*workload.inputs)
    lazily = peak()
    _ = traced.code
    print(json.dumps({"mib": lazily - before, "mib_with_code": peak() - before}))


def peak() -> float:
    """Return the most memory that this process has had, in MiB.

    Linux tells it in a file. What `resource.getrusage` gives would count the memory of the process
    that started this one.
    """
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


if __name__ == "__main__":
    main()
