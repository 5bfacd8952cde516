"""A trained model from its module to a `.pte` file: Hopyard beside ExecuTorch's own way.

Both ways start from the same module and end with the bytes that ExecuTorch's runtime executes, each
in a process of its own, in turn. Times are wall-clock times from the first call of the capture to
the bytes; imports and loading the model come before. Peak memory is that of the process. What both
files compute is compared with eager in the same run, and so is what they delegate.

Lowering is measured in two more processes: with an empty cache and with a filled one.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[2] / "docs/examples/demo"
PIPELINE = "decompose{table=core-aten},remove-no-ops,dce"
LIMIT = 1.0
WARM_LIMIT = 0.1


def model() -> tuple[Any, tuple[Any, ...]]:
    """Return MiniLM with a plain pooling, which both ways can take, and sentences."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.path.insert(0, str(EXAMPLES))
    embedder = importlib.import_module("embedder")
    import torch

    built, inputs = embedder.build()

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = built.encoder

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            output = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
            return embedder.mean_of_tokens(output.last_hidden_state, attention_mask)

    return Plain().eval(), inputs


def ours(module: Any, inputs: tuple[Any, ...], cache: str | None) -> tuple[bytes, float]:
    """Return the file, and the seconds that lowering took."""
    import torch

    from hopyard import Session
    from hopyard_executorch_delegate import delegate, to_executorch

    session = Session()
    with torch.no_grad():
        program = session.capture(module, inputs)
    program = session.run(PIPELINE, program).program
    start = time.perf_counter()
    delegated = delegate(program, session, ("xnnpack",), cache=cache)
    seconds = time.perf_counter() - start
    return to_executorch(delegated, (), session=session), seconds


def theirs(module: Any, inputs: tuple[Any, ...], cache: str | None) -> tuple[bytes, float]:
    """Return the file, and the seconds that lowering took."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    with torch.no_grad():
        exported = torch.export.export(module, inputs)
    start = time.perf_counter()
    edge = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    seconds = time.perf_counter() - start
    return bytes(edge.to_executorch().buffer), seconds


WAYS = {"ours": ours, "theirs": theirs}


def measure(way: str, cache: str | None) -> dict[str, Any]:
    """Measure one way in this process."""
    warnings.simplefilter("ignore")
    import torch

    import hopyard  # noqa: F401
    from hopyard_executorch_delegate import inspect_pte, run_pte

    module, inputs = model()
    start = time.perf_counter()
    content, lowering = WAYS[way](module, inputs, cache)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with torch.no_grad():
        expected = module(*inputs)
    (output,) = run_pte(content, list(inputs))
    listing = inspect_pte(content)
    return {
        "seconds": seconds,
        "lowering": lowering,
        "peak_mebibytes": peak,
        "bytes": len(content),
        "delegates": len(listing.delegates),
        "portable_calls": sum(listing.operators.values()),
        "cosine": float(torch.cosine_similarity(output, expected).min()),
        "deviation": float((output - expected).abs().max()),
    }


def elsewhere(way: str, cache: str | None = None) -> dict[str, Any]:
    """Measure one way in a process of its own."""
    command = [sys.executable, __file__, "--measure", way, *(["--cache", cache] if cache else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", choices=WAYS)
    parser.add_argument("--cache")
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.cache)))
        return
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}
    for _ in range(arguments.rounds):
        for way, results in found.items():
            results.append(elsewhere(way))
    with tempfile.TemporaryDirectory() as cache:
        cold, warm = elsewhere("ours", cache), elsewhere("ours", cache)
    medians = {
        way: {key: statistics.median(each[key] for each in results) for key in results[0]}
        for way, results in found.items()
    }
    time_ratio = medians["ours"]["seconds"] / medians["theirs"]["seconds"]
    memory_ratio = medians["ours"]["peak_mebibytes"] / medians["theirs"]["peak_mebibytes"]
    warm_ratio = warm["lowering"] / cold["lowering"]
    for way, figures in medians.items():
        print(
            f"{way:7} {figures['seconds']:6.2f} s  {figures['peak_mebibytes']:7.0f} MiB  "
            f"{figures['delegates']:.0f} delegates  {figures['portable_calls']:.0f} other calls  "
            f"cosine {figures['cosine']:.7f}"
        )
    print(f"time   {time_ratio:.2f} of theirs, at most {LIMIT}")
    print(f"memory {memory_ratio:.2f} of theirs, at most {LIMIT}")
    print(
        f"lowering with a warm cache {warm['lowering']:.2f} s, cold {cold['lowering']:.2f} s: "
        f"{warm_ratio:.1%}, at most {WARM_LIMIT:.0%}"
    )
    if arguments.json:
        report = {
            "python": platform.python_version(),
            "medians": medians,
            "time_ratio": time_ratio,
            "memory_ratio": memory_ratio,
            "cold": cold,
            "warm": warm,
            "warm_ratio": warm_ratio,
        }
        arguments.json.write_text(json.dumps(report, indent=2), encoding="utf-8")
    if medians["ours"]["cosine"] < 0.9999:
        raise SystemExit("the delegated program does not compute what the model does")
    if time_ratio > LIMIT or memory_ratio > LIMIT or warm_ratio > WARM_LIMIT:
        raise SystemExit("slower or larger than promised")


if __name__ == "__main__":
    main()
