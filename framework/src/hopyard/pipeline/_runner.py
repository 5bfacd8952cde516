"""Running a pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hopyard_hookspecs import PassRecord

from ._pipeline import Pipeline, resolve_steps

if TYPE_CHECKING:
    from hopyard.program import Program
    from hopyard.session import Session


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """What a pipeline made.

    Attributes:
        program: The transformed program; the given one if the pipeline has no passes.
        records: What each pass did, in order.
    """

    program: Program
    records: tuple[PassRecord, ...]


def run(pipeline: Pipeline, program: Program, session: Session) -> PipelineResult:
    """Run the passes of a pipeline on a program and verify what each returns.

    Every pass and option is checked before the first pass runs. A pass is given a copy of the
    graph that shares parameters, buffers and constants, so the given program stays as it is,
    whatever happens. Programs may be given to several pipelines at once.

    Raises:
        UnknownNameError: A pass of the pipeline is not registered.
        OptionError: A pass does not take its options.
        UsageError: A pass found while it ran that an option asks for what cannot be.
        PassError: A pass raised, returned something else than it must, or said that it changed
            nothing though it did. The error names the plugin and the pass.
        VerificationError: A pass returned a graph that is not sound.
        PluginError: A pass cannot be imported, or an observer raised.
    """
    passes = resolve_steps(pipeline, session.passes)
    # torch is loaded only now, so that a misspelt name is reported at once.
    from ._execution import execute

    records = []
    for bound in passes:
        program, record = execute(bound, program, session)
        records.append(record)
    return PipelineResult(program, tuple(records))
