"""Capture, guard, transform, verify, save and delegate a real trained model, and run it elsewhere.

Run it with `make demo`, which installs what it needs.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

import embedder
import torch
import transformers
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from hopyard import Program, Session
from hopyard.errors import SafeguardError
from hopyard.verify import count_nodes
from hopyard_executorch_delegate import inspect_pte, run_pte, to_executorch

PIPELINE = "decompose{table=core-aten},remove-no-ops,dce"
DELEGATION = "delegate{backend=reference}"
BACKENDS = ("xnnpack",)
RELOAD = Path(__file__).with_name("reload.py")


class Steps:
    """Shows which step is running and remembers how long each took."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Run the block as one step."""
        start = time.perf_counter()
        with self.console.status(f"{what} ..."):
            yield
        self.seconds[what] = time.perf_counter() - start
        self.console.print(f"[green]done[/] {what} [dim]{self.seconds[what]:.2f} s[/]")


def main() -> None:
    """Run the demo."""
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("torch").setLevel(logging.ERROR)
    console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)
    steps = Steps(console)

    with steps.step("load the model"):
        model, inputs = embedder.build()
    with steps.step("embed eagerly, the strict region checked"), torch.no_grad():
        expected = model(*inputs)
    with steps.step("load the plugins"):
        session = Session()
    show_plugins(console, session)

    with steps.step("try a capture that would lose its no_grad block"):
        refusal = refused_capture(session, model, inputs)
    console.print(f"  refused, as it should be: {escape(str(refusal))}\n", style="yellow")

    with steps.step("capture"), torch.no_grad():
        captured = session.capture(model, inputs)
    with steps.step(f"transform: {PIPELINE}"):
        result = session.run(PIPELINE, captured)
    transformed = result.program
    with steps.step(f"delegate: {DELEGATION}"):
        delegated = session.run(DELEGATION, transformed).program

    with steps.step("lower to XNNPACK and write a program of ExecuTorch"), quiet():
        executable = to_executorch(transformed, BACKENDS, session=session)
    with steps.step("run it with ExecuTorch's runtime"), quiet():
        (executed,) = run_pte(executable, inputs)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "embedder.pt2"
        with steps.step("save the undelegated program"):
            transformed.save(path)
        with steps.step("load and run it in a new process"):
            reloaded = reload_elsewhere(path, inputs)
        size = path.stat().st_size

    stages = {"captured": captured, "transformed": transformed, "delegated": delegated}
    with torch.no_grad():
        outputs = {name: program(*inputs) for name, program in stages.items()}
    outputs["reloaded from disk"] = reloaded
    outputs["run by ExecuTorch"] = executed

    console.print()
    show_passes(console, result.records)
    show_stages(console, stages, outputs, expected)
    console.print(f"saved file: {size / 1e6:.1f} MB; findings: {len(captured.findings)}\n")
    with quiet():
        show_executable(console, executable)
    show_similarities(console, expected)
    closest = float(torch.cosine_similarity(executed, expected).min())
    console.print(f"\nExecuTorch's embeddings: cosine similarity with eager at least {closest:.7f}")
    worst = max(deviation(output, expected) for output in outputs.values())
    console.print(f"largest deviation from eager: [bold]{worst:.2e}[/]")
    if not (worst < 1e-4 and closest >= 0.9999):
        raise SystemExit("the programs do not compute what the model does")


def refused_capture(
    session: Session, model: torch.nn.Module, inputs: tuple[Tensor, ...]
) -> SafeguardError:
    """Capture, with gradients on, a function whose graph would lose its `no_grad`."""

    def embed(*tokens: Tensor) -> Tensor:
        with torch.no_grad():
            return model(*tokens)

    try:
        session.capture(embed, inputs)
    except SafeguardError as error:
        return error
    raise SystemExit("the safeguard did not notice a no_grad block")


def reload_elsewhere(path: Path, inputs: tuple[Tensor, ...]) -> Tensor:
    """Load the program in a process of its own and return what it computes there."""
    request = json.dumps([tensor.tolist() for tensor in inputs])
    done = subprocess.run(
        [sys.executable, str(RELOAD), str(path)],
        input=request,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"the new process failed:\n{done.stderr}")
    return torch.tensor(json.loads(done.stdout))


def show_plugins(console: Console, session: Session) -> None:
    """Print what is installed."""
    table = Table("plugin", "distribution", "version", "status", title="plugins")
    for info in session.plugins.infos:
        provider = info.provider
        table.add_row(provider.plugin, provider.distribution, provider.version, info.status.value)
    console.print(table)


def show_passes(console: Console, records: tuple) -> None:
    """Print what each pass did."""
    table = Table("pass", "provided by", "nodes", "seconds", "verified in", title="passes")
    for record in records:
        table.add_row(
            record.step.name,
            f"{record.step.provider.distribution} {record.step.provider.version}",
            f"{record.nodes_before} → {record.nodes_after}",
            f"{record.seconds:.2f}",
            f"{record.verify_seconds:.2f}",
        )
    console.print(table)


def show_stages(
    console: Console, stages: dict[str, Program], outputs: dict[str, Tensor], expected: Tensor
) -> None:
    """Print the size of each program and how far its result is from eager."""
    table = Table("program", "nodes", "deviation from eager", title="programs")
    for name, output in outputs.items():
        nodes = str(count_nodes(stages[name].graph_module)) if name in stages else ""
        table.add_row(name, nodes, f"{deviation(output, expected):.2e}")
    console.print(table)


def show_executable(console: Console, executable: bytes) -> None:
    """Print what the program of ExecuTorch holds."""
    listing = inspect_pte(executable)
    own = sum(listing.operators.values())
    console.print(
        f"program of ExecuTorch: {listing.size / 1e6:.1f} MB, {len(listing.delegates)} delegates "
        f"of {', '.join(sorted({each.backend for each in listing.delegates}))}, {own} other calls"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what ExecuTorch and its libraries say of the machine out of the output."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


def show_similarities(console: Console, embeddings: Tensor) -> None:
    """Print the cosine similarity of each pair of sentences."""
    similarity = embeddings @ embeddings.T
    numbers = [str(index) for index in range(1, len(embedder.SENTENCES) + 1)]
    table = Table("", "sentence", *numbers, title="cosine similarity")
    for number, sentence, row in zip(numbers, embedder.SENTENCES, similarity, strict=True):
        table.add_row(number, sentence, *(f"{value:.3f}" for value in row.tolist()))
    console.print(table)


def deviation(output: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference."""
    return float((output - expected).abs().max())


if __name__ == "__main__":
    main()
