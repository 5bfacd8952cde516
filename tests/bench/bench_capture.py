"""How much `Session.capture` costs beside `torch.export`, and what saves, loads and calls cost.

What is saved and loaded are the two programs as they are: torch's without decompositions keeps
composite operators such as `linear`, so ours has more nodes; torch also saves and loads ours, as an
exported program. A call of a program checks its inputs, as one of torch's module does.

Measured against `torch.export.export(strict=False)` with `run_decompositions({})`, which gives what
a program is: a functional graph of aten operators. Both capture the same models in turn, in one
process, in CPU time of the process, with torch's process-wide cache of fake results cleared before
each; once with the sizes of the example, and once with a dynamic batch and, of text, a dynamic
length. A ratio is the median of the ratios of the rounds. Peak memory is that of a process of its
own for each capture, over what the model and the imports take.
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
from torch.export import Dim

import hopyard

FLOORS = {"static": 3.0, "dynamic": 4.0}
"""How many times as fast as torch a capture has to be, at the median."""

MODELS = ("gpt2", "llama", "bert", "t5", "vit", "resnet", "mamba", "whisper")
SESSION = hopyard.Session(discover=False)


def capture_with_torch(model: Any, inputs: Any, sizes: Any) -> Any:
    exported = torch.export.export(model, (), inputs, dynamic_shapes=sizes, strict=False)
    return exported.run_decompositions({})


def capture(model: Any, inputs: Any, sizes: Any) -> Any:
    return SESSION.capture(model, (), inputs, dynamic_shapes=sizes)


CAPTURES: dict[str, Callable[[Any, Any, Any], Any]] = {"torch": capture_with_torch, "ours": capture}
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
RUNNABLE: dict[str, Callable[[Any], Callable[..., Any]]] = {
    "torch": lambda exported: exported.module(),
    "ours": lambda program: program,
}
STEPS = ("capture", "save", "load", "call", "save ours", "load ours")
CALLS = 10
"""How many calls are timed together."""


def main() -> None:
    """Time the models that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where to keep the results")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(ARCHITECTURES))
    parser.add_argument("--sizes", nargs="+", default=list(FLOORS), choices=list(FLOORS))
    parser.add_argument("--peak", choices=list(CAPTURES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if options.peak:
        print(peak_of_this_process(options.models[0], options.sizes[0], options.peak))
        return

    results = {sizes: table(options.models, sizes, options.rounds) for sizes in options.sizes}
    if options.json:
        machine = {"torch": torch.__version__, "python": platform.python_version()}
        options.json.write_text(json.dumps({"machine": machine, "results": results}, indent=2))


def table(models: list[str], sizes: str, rounds: int) -> list[dict[str, Any]]:
    """Measure models, print a line for each and what comes of all, and return it."""
    headings = ("nodes", "torch", "ours", *STEPS, "torch's peak", "our peak")
    print(f"{sizes:12}" + "".join(f"{heading:>13}" for heading in headings))
    results = []
    for name in models:
        result = {"model": name, **measure(name, sizes, rounds), "peak_mb": peaks(name, sizes)}
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
        floor = f" (at least {FLOORS[sizes]:.0f}x)" if step == "capture" else ""
        least = min(ratios)
        print(
            f"{step}, {sizes}: median {statistics.median(ratios):.2f}x{floor}, least {least:.2f}x"
        )
    higher = [
        each["model"] for each in results if each["peak_mb"]["ours"] > each["peak_mb"]["torch"]
    ]
    print(f"peak memory, {sizes}: higher than torch's for {', '.join(higher) or 'none'}")
    return results


def example(name: str, sizes: str) -> tuple[Any, Any, Any]:
    """Return a model, its inputs and which of their sizes are dynamic."""
    model, inputs = ARCHITECTURES[name].make(), ARCHITECTURES[name].inputs()
    if sizes == "static":
        return model, inputs, None
    # A batch of one would stand for itself only.
    several = {
        key: torch.cat([value] * max(1, 4 // value.shape[0])) for key, value in inputs.items()
    }
    dims = {
        key: {0: Dim.AUTO, 1: Dim.AUTO} if value.dim() == 2 else {0: Dim.AUTO}
        for key, value in several.items()
    }
    return model, several, dims


def measure(name: str, sizes: str, rounds: int) -> dict[str, Any]:
    """Return CPU seconds of each step, and how many times ours what torch takes is."""
    given = example(name, sizes)
    with tempfile.TemporaryDirectory() as folder:
        # The first round imports what is imported when it is first used.
        seconds = [one_round(given, Path(folder)) for _ in range(rounds + 1)][1:]
    ratios = {
        "capture": ("capture, torch", "capture, ours"),
        **{step: (f"{step}, torch", f"{step}, ours") for step in ("save", "load", "call")},
        **{f"{step} ours": (f"{step}, by torch", f"{step}, ours") for step in ("save", "load")},
    }
    return {
        "nodes": {who: len(made(*given).graph.nodes) for who, made in CAPTURES.items()},
        "seconds": {key: statistics.median(each[key] for each in seconds) for key in seconds[0]},
        "ratio": {
            step: statistics.median(each[theirs] / each[ours] for each in seconds)
            for step, (theirs, ours) in ratios.items()
        },
    }


def one_round(given: tuple[Any, Any, Any], folder: Path) -> dict[str, float]:
    """Capture, save and load once with each; return CPU seconds."""
    seconds = {}
    made = {}
    for who, function in CAPTURES.items():
        made[who], seconds[f"capture, {who}"] = timed(partial(function, *given))
    for who, runnable in RUNNABLE.items():
        function = runnable(made[who])
        call(function, given[1])
        _, seconds[f"call, {who}"] = timed(partial(call, function, given[1]))
    made["by torch"] = made["ours"]
    for who, program in made.items():
        path = folder / f"{who}.pt2"
        _, seconds[f"save, {who}"] = timed(partial(SAVES[who], program, path))
        _, seconds[f"load, {who}"] = timed(partial(LOADS[who], path))
    return seconds


@torch.no_grad()
def call(function: Callable[..., Any], inputs: Any) -> None:
    for _ in range(CALLS):
        function(**inputs)


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    """Return what an action returns and the CPU seconds that it takes, cold."""
    FakeTensorMode.cache_clear()
    gc.collect()
    start = time.process_time()
    result = action()
    return result, time.process_time() - start


def peaks(name: str, sizes: str) -> dict[str, float]:
    """Return the megabytes that a capture adds at its peak, each in a process of its own."""
    command = [sys.executable, __file__, "--models", name, "--sizes", sizes, "--peak"]
    return {
        who: float(subprocess.run([*command, who], capture_output=True, check=True).stdout)
        for who in CAPTURES
    }


def peak_of_this_process(name: str, sizes: str, who: str) -> float:
    """Return the megabytes that a capture adds to the memory of this process at its peak.

    A capture of another model comes first, so that imports do not count.
    """
    other = "distilbert" if name != "distilbert" else "bert"
    CAPTURES[who](*example(other, sizes))
    given = example(name, sizes)
    FakeTensorMode.cache_clear()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = highest_kilobytes()
    kept = CAPTURES[who](*given)
    assert kept is not None
    return (highest_kilobytes() - before) / 1024


def highest_kilobytes() -> int:
    """Return the most memory that this process has had since its peak was reset."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
