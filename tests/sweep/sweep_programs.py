"""Capture modules with `Session.capture` and, beside it, with `torch.export` in non-strict mode.

A program must do what eager does over two calls, in results, in what it changes and in the random
numbers it draws; the same as torch's exported program; the same as an exported program of its own,
decomposed by torch; and the same again when a new process has loaded it from a file. All of that
once for the sizes of the example, and once with every size dynamic that may be, in calls of other
sizes; a program must then take all sizes that torch's takes. ::

    python tests/sweep/sweep_programs.py
    python tests/sweep/sweep_programs.py --only bert cond
    python tests/sweep/sweep_programs.py --page docs/reference/captures.md
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from dynamic_sizes import (
    asked_of,
    dimension_count,
    enlarged,
    narrower,
    ranges_of,
    ranges_of_exported,
    resized,
)
from running import SEED
from small_modules import SMALL, Call
from sweep_models import (
    ARCHITECTURES,
    DECODER,
    ENCODER,
    Architecture,
    large_picture,
    tokens,
    tokens_only,
)
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

import hopyard

MODELS: dict[str, Architecture] = {
    **ARCHITECTURES,
    "phi": Architecture("PhiForCausalLM", "PhiConfig", DECODER, tokens),
    "qwen3": Architecture("Qwen3ForCausalLM", "Qwen3Config", {**DECODER, "head_dim": 8}, tokens),
    "mpnet": Architecture("MPNetModel", "MPNetConfig", ENCODER, tokens_only),
    "ernie": Architecture("ErnieModel", "ErnieConfig", ENCODER, tokens_only),
    "segformer": Architecture(
        "SegformerModel",
        "SegformerConfig",
        {
            "hidden_sizes": [8, 8, 16, 16],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 1, 2, 2],
        },
        large_picture,
    ),
}

EXPLAINED = {
    "remembering": "refused: the graph has no place for the tensor, which torch drops in silence",
    "assigning": "refused: the graph has no place for the tensor; torch leaves a fake one behind",
    "container-changed": "refused: a graph cannot change the caller's dictionary",
    "branch": "refused by both: use `torch.cond`",
    "transposed-in-place": "refused by both: a pure graph cannot change a shape",
    "overlapping-changed": "refused by both: a pure graph would read before it writes",
    "scripted": "refused by both: capture what was compiled",
}
"""Why a module is not captured. Each that only torch captures has to be here."""

NOT_DECOMPOSED = ("text-result", "dtype-input")
"""Programs that torch runs, saves and verifies, but does not decompose."""


SIZES = ("static", "dynamic")


@dataclass
class Row:
    """What came of one module.

    Attributes:
        name: The module.
        is_dynamic: Whether sizes are dynamic.
        about: What it exercises, or the model's class.
        ours: Empty if the program was right in all respects, or what went wrong.
        theirs: The same of torch's exported program.
        nodes: The size of the program's graph.
        dimensions: How many dimensions are dynamic in ours, in torch's, and how many there are.
    """

    name: str
    is_dynamic: bool
    about: str
    ours: str = ""
    theirs: str = ""
    nodes: int = 0
    dimensions: list[int] = field(default_factory=list)
    program: Any = field(default=None, repr=False)

    @property
    def file(self) -> str:
        """The name of the file that the program is saved in, without its ending."""
        return f"{self.name}-dynamic" if self.is_dynamic else self.name

    @property
    def is_failure(self) -> bool:
        """Whether the program is wrong, or refused without a reason that the page gives."""
        return bool(self.ours) and not (self.name in EXPLAINED and self.program is None)


class Seen(NamedTuple):
    """What a call did.

    Attributes:
        leaves: Of its results, then of its arguments, which it may have changed.
        state: Parameters and buffers after it.
    """

    leaves: list[Any]
    state: dict[str, Tensor]


def main() -> int:
    """Run the sweep that the command line asks for; return how many modules fail."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*SMALL, *MODELS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=SIZES)
    parser.add_argument("--page", type=Path, help="write the table to this page")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for is_dynamic in [sizes == "dynamic" for sizes in options.sizes]:
            for name in options.only:
                rows.append(sweep(name, is_dynamic, Path(folder)))
                show(rows[-1])
        reload(rows, Path(folder))
    failures = [row for row in rows if row.is_failure]
    for row in failures:
        sizes = "dynamic" if row.is_dynamic else "static"
        print(
            f"python tests/sweep/sweep_programs.py --only {row.name} --sizes {sizes}\n  {row.ours}"
        )
    if options.page:
        options.page.write_text(page(rows))
    print(f"{len(rows)} modules, {len(failures)} fail, {time.perf_counter() - start:.0f} s")
    return len(failures)


def show(row: Row) -> None:
    """Print what came of a module in this process."""
    counts = "/".join(map(str, row.dimensions))
    said = f"{row.ours or 'ok':60.60}  {row.theirs or 'ok':60.60}"
    print(f"{row.name:24}{row.nodes:6} {counts:8} {said}", flush=True)


def sweep(name: str, is_dynamic: bool, folder: Path) -> Row:
    """Capture one module with both and compare with eager; leave what a new process needs."""
    about = SMALL[name].about if name in SMALL else f"`{MODELS[name].model}`"
    row = Row(name, is_dynamic, about)
    exported = None
    try:
        exported, row.theirs = exported_by_torch(name, is_dynamic)
    except Exception as error:  # noqa: BLE001
        row.theirs = first_line(error)
    try:
        model, calls = made(name)
        given = enlarged(calls[0]) if is_dynamic else calls[0]
        session = hopyard.Session(discover=False)
        row.program = session.capture(model, *given, **sizes_asked(name, is_dynamic))
        row.nodes = len(row.program.graph.nodes)
        calls = calls_for(row, name)
        eager_model, _ = made(name)
        eager = calls_of(eager_model, calls, eager_model.state_dict)
        if is_dynamic and exported is not None:
            row.theirs = wrong_with(exported, eager, calls_for(row, name))
        if is_dynamic:
            count = len(ranges_of_exported(exported)) if exported is not None else 0
            row.dimensions = [len(ranges_of(row.program)), count, dimension_count(given)]
            row.ours = narrower(row.program, exported) if exported is not None else ""
        check(row, model, eager, folder)
    except Exception as error:  # noqa: BLE001
        row.ours = first_line(error)
    if is_dynamic and row.program is None and exported is not None:
        # There is nobody to ask which other sizes would do.
        model, calls = made(name)
        row.theirs = wrong_with(exported, calls_of(model, calls, model.state_dict), made(name)[1])
    return row


def wrong_with(exported: Any, eager: list[Seen], calls: list[Call]) -> str:
    """Return how a program of torch's differs from eager, or how it fails, or ""."""
    runnable = exported.module(check_guards=False)
    try:
        compare(eager, calls_of(runnable, calls, runnable.state_dict))
    except Exception as error:  # noqa: BLE001
        return first_line(error)
    return ""


def exported_by_torch(name: str, is_dynamic: bool) -> tuple[Any, str]:
    """Return torch's program, and of one without dynamic sizes what is wrong with it."""
    model, calls = made(name)
    eager = calls_of(model, calls, model.state_dict)
    model, calls = made(name)
    args, kwargs = enlarged(calls[0]) if is_dynamic else calls[0]
    exported = torch.export.export(
        model, args, kwargs, **sizes_asked(name, is_dynamic), strict=False
    ).run_decompositions({})
    return exported, "" if is_dynamic else wrong_with(exported, eager, calls)


def sizes_asked(name: str, is_dynamic: bool) -> dict[str, Any]:
    """Return the argument that asks for dynamic sizes, if they shall be."""
    if not is_dynamic:
        return {}
    model, calls = made(name)
    return {"dynamic_shapes": asked_of(model, *enlarged(calls[0]), everything=name in SMALL)}


def calls_for(row: Row, name: str) -> list[Call]:
    """Return two calls, of other sizes each than the example if sizes are dynamic."""
    calls = made(name)[1]
    if not row.is_dynamic:
        return calls
    return [
        resized(row.program, enlarged(call), step) for call, step in zip(calls, (1, 3), strict=True)
    ]


def check(row: Row, model: nn.Module, eager: list[Seen], folder: Path) -> None:
    """Compare a program, and what is made of it, with eager.

    Raises:
        Exception: It differs, or torch refuses it.
    """
    program = row.program
    start = {key: value.detach().clone() for key, value in program.state.items()}
    program.save(folder / f"{row.file}.pt2")
    calls = calls_for(row, row.name)
    torch.save((calls, [tuple(each) for each in eager]), folder / f"{row.file}.pt")
    compare(eager, calls_of(program, calls_for(row, row.name), model.state_dict))

    with torch.no_grad():
        for key, value in start.items():
            program.state[key].copy_(value)
    exported = program.to_exported_program()
    decomposed = exported if row.name in NOT_DECOMPOSED else exported.run_decompositions()
    runnable = decomposed.module(check_guards=False)
    compare(eager, calls_of(runnable, calls_for(row, row.name), runnable.state_dict))


def made(name: str) -> tuple[nn.Module, list[Call]]:
    """Return a module and the arguments of two calls, always the same."""
    torch.manual_seed(SEED)
    if name in SMALL:
        return SMALL[name].make(), [SMALL[name].call() for _ in range(2)]
    architecture = MODELS[name]
    return architecture.make(), [((), architecture.inputs()) for _ in range(2)]


def calls_of(
    function: Callable[..., Any], calls: list[Call], state: Callable[[], dict[str, Tensor]]
) -> list[Seen]:
    """Call a function and return what can be seen after each call."""
    seen = []
    with torch.no_grad():
        for args, kwargs in calls:
            torch.manual_seed(SEED)
            results = function(*args, **kwargs)
            leaves = [*tree_leaves(results), *tree_leaves((args, kwargs))]
            seen.append(Seen(copied(leaves), copied(dict(state()))))
    return seen


def copied(values: Any) -> Any:
    return tree_map_only(Tensor, lambda value: value.detach().clone(), values)


def compare(expected: list[Seen], found: list[Seen]) -> None:
    """Raise if what was seen differs; of tied tensors only one has to be there.

    Raises:
        AssertionError: It does.
    """
    for one, other in zip(expected, found, strict=True):
        names = one.state.keys() & other.state.keys()
        for first, second in [
            *zip(one.leaves, other.leaves, strict=True),
            *((one.state[name], other.state[name]) for name in names),
        ]:
            if isinstance(first, Tensor):
                torch.testing.assert_close(second, first, rtol=1e-4, atol=1e-5, equal_nan=True)
            elif type(first) is not type(second) or first != second:
                raise AssertionError(f"{second!r} instead of {first!r}")


_RELOAD = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from sweep_programs import call_loaded
torch.set_num_threads(1)
for name in sys.argv[3:]:
    print(name, call_loaded(name, sys.argv[2]), sep="\\t")
"""


def reload(rows: Iterable[Row], folder: Path) -> None:
    """Let a new process load what was saved and compare it with eager."""
    saved = {row.file: row for row in rows if (folder / f"{row.file}.pt").exists()}
    here = str(Path(__file__).parent)
    command = [sys.executable, "-W", "ignore", "-c", _RELOAD, here, str(folder), *saved]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    told = dict(line.split("\t") for line in done.stdout.splitlines() if "\t" in line)
    for name, row in saved.items():
        row.ours = row.ours or told.get(name, f"not loaded: {done.stderr[-500:]}")


def call_loaded(file: str, folder: str) -> str:
    """Return what is wrong with a saved program, in a process that has not captured it."""
    name = file.removesuffix("-dynamic")
    if name in MODELS:
        # The module of a model tells torch what its results are made of.
        getattr(transformers, MODELS[name].model)
    try:
        calls, seen = torch.load(f"{folder}/{file}.pt", weights_only=False)
        eager = [Seen(*each) for each in seen]
        program = hopyard.load(f"{folder}/{file}.pt2")
        compare(eager, calls_of(program, calls, lambda: program.state))
    except Exception as error:  # noqa: BLE001
        return f"loaded: {first_line(error)}"
    return ""


def first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[0]}"


def page(rows: list[Row]) -> str:
    """Return the tables as a page of the documentation."""
    static = [row for row in rows if not row.is_dynamic]
    dynamic = [row for row in rows if row.is_dynamic]
    lines = [
        "# What is captured",
        "",
        "`make sweep` writes this page, with "
        "`python tests/sweep/sweep_programs.py --page docs/reference/captures.md`.",
        "",
        "*Hopyard* says yes if a program made by `Session.capture` does what eager does over two "
        "calls, in results, inputs and state;",
        "if torch's verifier and `run_decompositions` accept it as an `ExportedProgram` that "
        "computes the same;",
        "and if a new process that loads it from a file computes the same.",
        "*torch.export* says yes if `torch.export.export(strict=False)` with "
        "`run_decompositions({})` does what eager does over two calls, "
        f"in torch {torch.__version__.partition('+')[0]}.",
        "Where both say yes, they agree with each other, since both agree with eager.",
        "",
        "## Modules that exercise one thing each",
        "",
        *_table("Module", [row for row in static if row.name in SMALL]),
        "",
        "## Models of transformers, from a configuration",
        "",
        *_table("Model", [row for row in static if row.name in MODELS]),
        "",
        "## With dynamic sizes",
        "",
        "Every size is asked to be `Dim.AUTO`: all of a module's, the batch and the length of a "
        "model's.",
        "Calls then have other sizes than the example.",
        "*Dynamic* says how many sizes differ from call to call in our program, in torch's, and "
        "how many there are;",
        "ours takes every size that torch's takes, or the row says no.",
        "",
        *_table("Module or model", dynamic),
        "",
        "## Differences",
        "",
    ]
    for sizes, some in (("fixed", static), ("dynamic", dynamic)):
        only_ours = [row.name for row in some if not row.ours and row.theirs]
        only_theirs = [row.name for row in some if row.ours and not row.theirs]
        lines += [
            f"Only Hopyard, {sizes} sizes: {', '.join(only_ours) or 'none'}.",
            f"Only torch.export, {sizes} sizes: {', '.join(only_theirs) or 'none'}.",
        ]
    return "\n".join([*lines, ""])


def _table(heading: str, rows: list[Row]) -> Iterable[str]:
    is_dynamic = any(row.is_dynamic for row in rows)
    yield f"| {heading} | What it is | Nodes |{' Dynamic |' * is_dynamic} Hopyard | torch.export |"
    yield f"|---|---|---:|{'---:|' * is_dynamic}---|---|"
    for row in rows:
        ours = "yes" if not row.ours else EXPLAINED.get(row.name, row.ours)
        ours += ", but torch decomposes no such program" if row.name in NOT_DECOMPOSED else ""
        theirs = "yes" if not row.theirs else "no"
        counts = f" {' / '.join(map(str, row.dimensions))} |" if is_dynamic else ""
        yield f"| {row.name} | {row.about} | {row.nodes or ''} |{counts} {ours} | {theirs} |"


if __name__ == "__main__":
    sys.exit(min(main(), 1))
