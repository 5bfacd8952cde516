"""How much `Session.capture` costs beside `torch.export`, and what saving and loading cost.

What is saved and loaded are the two programs as they are: torch's without decompositions keeps
composite operators such as `linear`, so ours has more nodes; torch also saves and loads ours, as an
exported program.

Measured against `torch.export.export(strict=False)` with `run_decompositions({})`, which gives what
a program is: a functional graph of aten operators. Both capture the same models in turn, in one
process, in CPU time of the process, with torch's process-wide cache of fake results cleared before
each. A ratio is the median of the ratios of the rounds. Peak memory is that of a process of its own
for each capture, over what the model and the imports take.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "sweep"))

import torch
from sweep_models import ARCHITECTURES
from torch._subclasses.fake_tensor import FakeTensorMode

import hopyard

MODELS = ("gpt2", "llama", "bert", "t5", "vit", "resnet", "mamba", "whisper")
SESSION = hopyard.Session(discover=False)


def capture_with_torch(model: Any, inputs: Any) -> Any:
    return torch.export.export(model, (), inputs, strict=False).run_decompositions({})


def capture(model: Any, inputs: Any) -> Any:
    return SESSION.capture(model, (), inputs)


CAPTURES: dict[str, Callable[[Any, Any], Any]] = {"torch": capture_with_torch, "ours": capture}
SAVES: dict[str, Callable[[Any, Path], None]] = {
    "torch": lambda exported, path: torch.export.save(exported, path),
    "ours": lambda program, path: program.save(path),
    "by torch": lambda program, path: torch.export.save(program.to_exported_program(), path),
}
LOADS: dict[str, Callable[[Path], Any]] = {
    "torch": lambda path: torch.export.load(path),
    "ours": lambda path: SESSION.load(path),
    "by torch": lambda path: torch.export.load(path),
}
STEPS = ("capture", "save", "load", "save ours", "load ours")


def main() -> None:
    """Time the models that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where to keep the results")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(ARCHITECTURES))
    parser.add_argument("--peak", choices=list(CAPTURES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if options.peak:
        print(peak_of_this_process(options.models[0], options.peak))
        return

    headings = ("nodes", "torch", "ours", *STEPS, "torch's peak", "our peak")
    print(f"{'model':12}" + "".join(f"{heading:>13}" for heading in headings))
    results = []
    for name in options.models:
        result = {"model": name, **measure(name, options.rounds), "peak_mb": peaks(name)}
        results.append(result)
        print(
            f"{name:12}{result['nodes']['torch']:7} {result['nodes']['ours']:5}"
            + "".join(f"{result['seconds'][f'capture, {w}'] * 1e3:10.0f} ms" for w in CAPTURES)
            + "".join(f"{result['ratio'][step]:12.2f}x" for step in STEPS)
            + "".join(f"{result['peak_mb'][who]:10.1f} MB" for who in CAPTURES),
            flush=True,
        )
    for step in STEPS:
        ratios = [result["ratio"][step] for result in results]
        print(f"{step}: median {statistics.median(ratios):.2f}x, least {min(ratios):.2f}x")
    if options.json:
        machine = {"torch": torch.__version__, "python": platform.python_version()}
        options.json.write_text(json.dumps({"machine": machine, "results": results}, indent=2))


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Return CPU seconds of each step, and how many times ours what torch takes is."""
    model, inputs = ARCHITECTURES[name].make(), ARCHITECTURES[name].inputs()
    with tempfile.TemporaryDirectory() as folder:
        # The first round imports what is imported when it is first used.
        seconds = [one_round(model, inputs, Path(folder)) for _ in range(rounds + 1)][1:]
    ratios = {
        "capture": ("capture, torch", "capture, ours"),
        **{step: (f"{step}, torch", f"{step}, ours") for step in ("save", "load")},
        **{f"{step} ours": (f"{step}, by torch", f"{step}, ours") for step in ("save", "load")},
    }
    return {
        "nodes": {who: len(made(model, inputs).graph.nodes) for who, made in CAPTURES.items()},
        "seconds": {key: statistics.median(each[key] for each in seconds) for key in seconds[0]},
        "ratio": {
            step: statistics.median(each[theirs] / each[ours] for each in seconds)
            for step, (theirs, ours) in ratios.items()
        },
    }


def one_round(model: Any, inputs: Any, folder: Path) -> dict[str, float]:
    """Capture, save and load once with each; return CPU seconds."""
    seconds = {}
    made = {}
    for who, function in CAPTURES.items():
        made[who], seconds[f"capture, {who}"] = timed(partial(function, model, inputs))
    made["by torch"] = made["ours"]
    for who, program in made.items():
        path = folder / f"{who}.pt2"
        _, seconds[f"save, {who}"] = timed(partial(SAVES[who], program, path))
        _, seconds[f"load, {who}"] = timed(partial(LOADS[who], path))
    return seconds


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    """Return what an action returns and the CPU seconds that it takes, cold."""
    FakeTensorMode.cache_clear()
    gc.collect()
    start = time.process_time()
    result = action()
    return result, time.process_time() - start


def peaks(name: str) -> dict[str, float]:
    """Return the megabytes that a capture adds at its peak, each in a process of its own."""
    command = [sys.executable, __file__, "--models", name, "--peak"]
    return {
        who: float(subprocess.run([*command, who], capture_output=True, check=True).stdout)
        for who in CAPTURES
    }


def peak_of_this_process(name: str, who: str) -> float:
    """Return the megabytes that a capture adds to the memory of this process at its peak.

    A capture of another model comes first, so that imports do not count.
    """
    other = "distilbert" if name != "distilbert" else "bert"
    CAPTURES[who](ARCHITECTURES[other].make(), ARCHITECTURES[other].inputs())
    model, inputs = ARCHITECTURES[name].make(), ARCHITECTURES[name].inputs()
    FakeTensorMode.cache_clear()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = highest_kilobytes()
    kept = CAPTURES[who](model, inputs)
    assert kept is not None
    return (highest_kilobytes() - before) / 1024


def highest_kilobytes() -> int:
    """Return the most memory that this process has had since its peak was reset."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
