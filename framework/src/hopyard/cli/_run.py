"""`hopyard run`."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SafeguardError, UsageError
from ..pipeline import GraphDumps, Pipeline
from ..policies import find_policies
from ..session import Session
from ._answer import Answer
from ._console import progress
from ._destination import destination
from ._dynamic import DynamicSize, dynamic_shapes
from ._factory import (
    FactoryName,
    call_factories,
    call_factory,
    find_factory,
    importing_from_working_directory,
)
from ._findings import chosen_policies, findings_file, write_findings
from ._sessions import open_session
from ._stages import during

if TYPE_CHECKING:
    from ._conversion import Conversion

SUMMARY = "Capture a program, run a pipeline on it, compare it with eager and write it to a file."

_DETAILS = """\
FACTORY is a function without arguments in MODULE that returns (module_or_function, args) or
(module_or_function, args, kwargs): what to capture, and example inputs. With --args it returns the
module or function alone, and the function that --args names returns args or (args, kwargs). Modules
are also looked for in the working directory.

The program is captured with gradients off unless --grad is given. torch's random numbers are
seeded before the factory, the program and eager run, and eager runs on copies of the module and
its inputs. Nothing is written if the program deviates from eager by more than is allowed.

A plugin that is broken is left out with a warning.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = _DETAILS
    parser.add_argument("factory", metavar="MODULE:FACTORY", help="makes what is captured")
    parser.add_argument("--args", metavar="MODULE:FACTORY", help="makes the example inputs")
    parser.add_argument(
        "--pipeline",
        default="",
        metavar="TEXT",
        help="for example 'decompose,dce', or @FILE.toml to read it from a file",
    )
    parser.add_argument(
        "--dump", metavar="FOLDER", help="write graphs around passes to text files in this folder"
    )
    parser.add_argument(
        "--dump-when",
        action="append",
        choices=("before", "after", "change", "failure"),
        help="of which moments; repeat it for others (change and failure)",
    )
    parser.add_argument(
        "--dynamic",
        action="append",
        default=[],
        metavar="INPUT:DIM[=NAME]",
        help="let a size differ from call to call; repeat it for others. Sizes of one NAME are "
        "equal, and NAME[2..64] gives their range",
    )
    parser.add_argument("--out", metavar="FILE.pt2", help="write the program to this file")
    parser.add_argument(
        "--policy",
        action="append",
        default=[],
        metavar="CODE=POLICY",
        help="what becomes of what safeguards find, for example HY101=warn; repeat it for others. "
        "Others are as [tool.hopyard.policy] in the nearest pyproject.toml says",
    )
    parser.add_argument(
        "--findings", metavar="FILE", help="write findings to this file: .json, or .sarif"
    )
    parser.add_argument("--grad", action="store_true", help="capture and run with gradients on")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of torch's random numbers (0)"
    )
    parser.add_argument(
        "--tolerance",
        type=_tolerance,
        metavar="X",
        help="allow floating-point results to deviate by X times their largest magnitude or 1 "
        "(by default 1e-4 in single precision)",
    )
    parser.add_argument(
        "--traceback", action="store_true", help="show the whole traceback of a failure"
    )


def answer(arguments: argparse.Namespace) -> Answer:
    """Run the command; what can be checked without work is checked first.

    Raises:
        UsageError: The command line asks for what cannot be.
        HopyardError: A step failed; the message says which.
    """
    name = FactoryName.parse(arguments.factory)
    inputs = FactoryName.parse(arguments.args) if arguments.args is not None else None
    arguments.dynamic = [DynamicSize.parse(text) for text in arguments.dynamic]
    out = destination(arguments.out) if arguments.out is not None else None
    findings = findings_file(arguments.findings) if arguments.findings is not None else None
    session = open_session({**find_policies(), **chosen_policies(arguments.policy)})
    pipeline = session.pipeline(_read_pipeline(arguments.pipeline))
    try:
        with importing_from_working_directory():
            conversion = _convert(name, inputs, pipeline, session, arguments, out)
    except SafeguardError as error:
        if findings is not None:
            write_findings(findings, error.findings, session.hazards)
        raise
    data = {"factory": str(name), "pipeline": str(pipeline), **conversion.data()}
    data["out"] = str(out) if out else None
    data["plugins"] = [asdict(provider) for provider in conversion.program.manifest.plugins]
    lines = [f"factory    {name}", f"pipeline   {pipeline or '(no passes)'}", *conversion.lines()]
    lines.append(f"written    {arguments.out}" if out else "written    nothing (no --out)")
    if findings is not None:
        write_findings(findings, conversion.program.findings, session.hazards)
    return Answer(lines, data)


def _read_pipeline(text: str) -> str | Pipeline:
    if not text.startswith("@"):
        return text
    try:
        return Pipeline.from_toml(Path(text[1:]).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as cause:
        raise UsageError(f"cannot read the pipeline from {text[1:]}: {cause}") from cause


def _dumps(arguments: argparse.Namespace) -> list[GraphDumps]:
    if arguments.dump is None:
        return []
    return [GraphDumps(arguments.dump, arguments.dump_when or ("change", "failure"))]


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a finite number of at least 0, not {text!r}")
    return value


def _convert(
    name: FactoryName,
    inputs: FactoryName | None,
    pipeline: Pipeline,
    session: Session,
    arguments: argparse.Namespace,
    out: Path | None,
) -> Conversion:
    with progress() as doing:
        doing("importing torch")
        import torch

        from ._conversion import convert

        doing(f"calling {name}")
        factory = find_factory(name)
        make_inputs = find_factory(inputs) if inputs else None
        torch.manual_seed(arguments.seed)
        if inputs is None or make_inputs is None:
            target = call_factory(factory, name)
        else:
            target = call_factories(factory, name, make_inputs, inputs)
        with torch.set_grad_enabled(arguments.grad):
            conversion = convert(
                target,
                pipeline,
                session,
                doing,
                seed=arguments.seed,
                tolerance=arguments.tolerance,
                dynamic_shapes=dynamic_shapes(arguments.dynamic),
                observers=_dumps(arguments),
            )
        if out is not None:
            doing(f"writing {out.name}")
            with during("save", f"writing {out.name}"):
                conversion.program.save(out)
        return conversion
