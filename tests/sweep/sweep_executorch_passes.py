"""Run ExecuTorch's own passes on its pass base and on ours, and compare what they make of programs.

Every pass that ExecuTorch and its backends define, and that can be imported and made, is run on
every program of `executorch_programs` in both versions: on graphs as ExecuTorch makes them, which
our base has not seen before, and on graphs whose nodes ours has stamped, with and without reuse.
Graphs, metadata and source lines must be the same. What a pass refuses on ExecuTorch's base, it may
refuse on ours. ::

    python tests/sweep/sweep_executorch_passes.py
    python tests/sweep/sweep_executorch_passes.py --only ScalarToTensorPass --programs data
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import inspect
import io
import logging
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from executorch_programs import PROGRAMS
from executorch_rebasing import Importer, Rebased, modules, passes
from pass_comparison import EXECUTORCH, difference
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.fx import GraphModule

from hopyard.partitioning import copy_graph_module
from hopyard_export_pass import recompute_everything

ARGUMENTS: dict[str, Any] = {
    "device": "cpu",
    "dst_dtype": torch.float32,
    "neg_inf": -255,
    "pos_inf": 255,
    "src_dtype": torch.float64,
    "tosa_spec": None,
    "use_exir_clone": False,
}
"""What some passes are to be made with, besides the program."""

STALE_THERE = {
    ("InsertInt32CastsAfterInt64PlaceholdersPass", "regions"),
    ("InsertInt32CastsAfterInt64PlaceholdersPass", "regions, edge"),
}
"""Passes and programs for which ExecuTorch's base says of inputs of bodies what they were before,
though what the bodies are given is of another type now."""


@dataclass(frozen=True)
class Outcome:
    """What became of a pass on a program.

    Attributes:
        refusal: What the pass raised on ExecuTorch's base; "" if it ran.
        changed: Whether it changed the graph there.
        problem: How ours differs; "" if not at all.
    """

    refusal: str = ""
    changed: bool = False
    problem: str = ""


class CannotBeMadeError(Exception):
    """A pass wants arguments that say what to do."""


def made(kind: type, program: ExportedProgram) -> Any:
    """Return an instance of a pass for a program.

    Raises:
        CannotBeMadeError: It needs more than the program.
    """
    known = {
        "exported_program": program,
        "edge_program": program,
        "graph_module": program.graph_module,
        **ARGUMENTS,
    }
    wanted = [
        each.name
        for each in inspect.signature(kind).parameters.values()
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if not known.keys() >= set(wanted):
        raise CannotBeMadeError(f"needs {', '.join(sorted(set(wanted) - known.keys()))}")
    if "tosa_spec" in wanted:
        from executorch.backends.arm.tosa.specification import TosaLoweringContext

        known["tosa_spec"] = TosaLoweringContext.tosa_spec_var.get()
    instance = kind(**{name: known[name] for name in wanted})
    if kind.__module__.startswith("executorch.backends.vulkan"):
        # Vulkan's own driver of passes sets it.
        instance._exported_program = program
    return instance


def run(kind: type, program: ExportedProgram) -> GraphModule | Exception:
    """Return what a pass makes of a copy of a program's graph, or the exception that it raises."""
    graph_module = copy_graph_module(program.graph_module)
    own = ExportedProgram(
        root=graph_module,
        graph=graph_module.graph,
        graph_signature=copy.deepcopy(program.graph_signature),
        state_dict=dict(program.state_dict),
        range_constraints=dict(program.range_constraints),
        module_call_graph=copy.deepcopy(program.module_call_graph),
        example_inputs=program.example_inputs,
        constants=dict(program.constants),
        verifiers=program.verifiers,
    )
    own.graph_module.meta.update(graph_module.meta)
    try:
        with torch.no_grad(), surroundings(kind), contextlib.redirect_stdout(io.StringIO()):
            result: GraphModule = made(kind, own)(own.graph_module).graph_module
            return result
    except Exception as error:  # noqa: BLE001
        return error


def surroundings(kind: type) -> contextlib.AbstractContextManager[Any]:
    """Return what passes of a backend expect to run in: for Arm, what they lower to."""
    if not kind.__module__.startswith("executorch.backends.arm"):
        return contextlib.nullcontext()
    from executorch.backends.arm.tosa.specification import TosaLoweringContext, TosaSpecification

    return TosaLoweringContext(TosaSpecification.create_from_string("TOSA-1.0+INT+FP"))


def compared(
    kind: type, rebased: type, program: ExportedProgram, stamped: ExportedProgram
) -> Outcome:
    """Compare a pass on ExecuTorch's base with the same on ours.

    Args:
        kind: The pass.
        rebased: The pass on our base.
        program: A program whose graph has no stamps.
        stamped: The same program, whose graph has.
    """
    for node in program.graph.nodes:
        if isinstance(node.meta.get("val"), FakeTensor):
            # Their base would find in the values of inputs which symbols earlier passes have made
            # for them, and bind these nowhere.
            node.meta["val"].fake_mode.epoch += 1
            break
    theirs = run(kind, program)
    ours = {"unstamped": run(rebased, program), "stamped": run(rebased, stamped)}
    with recompute_everything():
        ours["without reuse"] = run(rebased, stamped)
    if isinstance(theirs, Exception):
        return Outcome(_told(theirs))
    changed = bool(difference(theirs, program.graph_module, EXECUTORCH))
    for name, each in ours.items():
        if isinstance(each, Exception):
            return Outcome("", changed, f"{name}: raises {_told(each)}")
        problem = difference(each, theirs, EXECUTORCH)
        if problem:
            return Outcome("", changed, f"{name}:\n{problem}")
    return Outcome("", changed)


def with_stamps(program: ExportedProgram) -> ExportedProgram:
    """Return a program whose graph is replayed by our base, which stamps it."""
    graph_module = Rebased()(program.graph_module).graph_module
    return program._update(graph_module, program.graph_signature)


def _told(error: Exception) -> str:
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Sweep; return how many passes differ on how many programs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", help="names of passes; default: all")
    parser.add_argument("--programs", nargs="+", default=list(PROGRAMS), choices=list(PROGRAMS))
    parser.add_argument("--reasons", action="store_true", help="tell why passes do not take part")
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    names, unimportable = modules()
    importer = Importer()
    pairs = {
        f"{kind.__module__}.{kind.__name__}": (kind, importer.rebased(kind))
        for kind in passes(names)
        if not options.only or kind.__name__ in options.only
    }
    ran: Counter[str] = Counter()
    changed: Counter[str] = Counter()
    refusals: dict[str, str] = {}
    differ = 0
    for program_name in options.programs:
        start = time.perf_counter()
        program = PROGRAMS[program_name]()
        stamped = with_stamps(program)
        problems = {}
        for name, (kind, rebased) in pairs.items():
            outcome = compared(kind, rebased, program, stamped)
            if outcome.refusal:
                refusals[name] = outcome.refusal
                continue
            ran[name] += 1
            changed[name] += outcome.changed
            if outcome.problem and (kind.__name__, program_name) not in STALE_THERE:
                problems[name] = outcome.problem
        differ += len(problems)
        print(
            f"{program_name:26}{len(program.graph.nodes):6} nodes{len(problems):4} differ"
            f"{time.perf_counter() - start:8.1f} s",
            flush=True,
        )
        for name, problem in problems.items():
            print(f"    {name}: {problem}", flush=True)
    print(
        f"{len(pairs)} passes, {len(ran)} run on some program, {sum(map(bool, changed.values()))} "
        f"change one, {sum(ran.values())} comparisons, {differ} differ"
    )
    if options.reasons:
        for name in pairs:
            if changed[name]:
                print(f"    {name} changes {changed[name]} of {ran[name]}")
        for name, reason in {
            **unimportable,
            **{k: v for k, v in refusals.items() if not ran[k]},
        }.items():
            print(f"    {name}: {reason}")
    return differ


if __name__ == "__main__":
    sys.exit(main() > 0)
