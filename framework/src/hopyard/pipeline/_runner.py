"""Running a pipeline."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hopyard_hookspecs import PassRecord

from ._binding import resolve_steps
from ._observers import Observers
from ._pipeline import Pipeline
from ._report import report

if TYPE_CHECKING:
    from hopyard.program import Program
    from hopyard.session import Session


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """What a pipeline made.

    Attributes:
        program: The transformed program; the given one if the pipeline has no passes.
        records: What each pass did, in order; a pass in a group that is repeated, or that runs on
            several regions, has several.
    """

    program: Program
    records: tuple[PassRecord, ...]

    def report(self) -> str:
        """Return a table of passes: what they changed, and how long they and their checks took."""
        return report(self.records)


def run(
    pipeline: Pipeline, program: Program, session: Session, observers: Iterable[object] = ()
) -> PipelineResult:
    """Run the passes of a pipeline on a program and verify what each returns.

    Every pass and option is checked before the first pass runs. A pass is given a copy of the
    graph that shares parameters, buffers and constants, so the given program stays as it is,
    whatever happens. Programs may be given to several pipelines at once.

    Args:
        pipeline: What to run.
        program: What to run it on.
        session: The plugins.
        observers: Objects with hooks such as `hopyard_after_pass`, which are told of this run
            besides the session's plugins; see :class:`GraphDumps`.

    Raises:
        UnknownNameError: A pass of the pipeline is not registered.
        OptionError: A pass does not take its options.
        OrderError: A pass must run before or after another, and does not.
        UsageError: A pass found while it ran that an option asks for what cannot be.
        PassError: A pass raised, returned something else than it must, said that it changed
            nothing though it did, was given a graph it is not made for, or passes that are repeated
            never came to an end. The error names the plugin and the pass.
        VerificationError: A pass returned a graph that is not sound.
        PluginError: A pass cannot be imported, or an observer raised.
    """
    passes = resolve_steps(pipeline, session.passes)
    told = Observers(session.plugins, observers)
    # torch is loaded only now, so that a misspelt name is reported at once.
    from ._execution import Surroundings
    from ._groups import run_steps

    records: list[PassRecord] = []
    program = run_steps(passes, program, Surroundings(session, told), records)
    return PipelineResult(program, tuple(records))
