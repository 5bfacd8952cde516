"""From a target to a transformed program that is known to compute the same."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any, TypeVar

from hopyard_hookspecs import PassRecord

from ..findings import to_json
from ..pipeline import Pipeline
from ..program import Program
from ..session import Session
from ..verify import count_nodes
from ._answer import table
from ._compare import (
    Deviation,
    changeable_state,
    compare,
    copied,
    run_eagerly,
    run_program,
)
from ._console import Progress
from ._factory import Target
from ._stages import during

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was done to a target, step by step.

    Attributes:
        program: The transformed program.
        captured_nodes: Number of nodes before the first pass.
        records: What each pass did.
        texts: Each pass with its options as pipeline text.
        deviation: How far the program is from eager.
        seconds: Wall time of what surrounds the passes, by name.
    """

    program: Program
    captured_nodes: int
    records: tuple[PassRecord, ...]
    texts: tuple[str, ...]
    deviation: Deviation
    seconds: dict[str, float]

    @property
    def nodes(self) -> int:
        """Number of nodes after the last pass."""
        return count_nodes(self.program.graph_module)

    def lines(self) -> list[str]:
        """Return what people read."""
        findings = self.program.findings
        return [
            f"nodes      {self.captured_nodes} -> {self.nodes}",
            "",
            *self._steps(),
            "",
            f"findings   {len(findings) or 'none'}",
            *(f"           {finding}" for finding in findings),
            *self._reports(),
            f"deviation  {self.deviation.largest:.3g} from eager "
            f"(allowed {self.deviation.allowed:.3g}, {self.deviation.where})",
        ]

    def data(self) -> dict[str, Any]:
        """Return what programs read."""
        return {
            "nodes_before": self.captured_nodes,
            "nodes_after": self.nodes,
            "passes": [
                _record_data(record, text)
                for record, text in zip(self.records, self.texts, strict=True)
            ],
            "seconds": self.seconds,
            "findings": to_json(self.program.findings),
            "reports": {name: report.data for name, report in self.program.reports.items()},
            "deviation": asdict(self.deviation),
        }

    def _reports(self) -> list[str]:
        reports = self.program.reports.items()
        return [f"{name:<10} {report.summary} as captured" for name, report in reports]

    def _steps(self) -> list[str]:
        rows = [("capture", str(self.captured_nodes), "", _time(self.seconds["capture"]), "", "")]
        for record, text in zip(self.records, self.texts, strict=True):
            rows.append(
                (
                    text,
                    f"{record.nodes_before} -> {record.nodes_after}",
                    "yes" if record.modified else "no",
                    _time(record.seconds),
                    _time(record.verify_seconds),
                    str(record.step.provider),
                )
            )
        rows += [(name, "", "", _time(self.seconds[name]), "", "") for name in ("program", "eager")]
        header = ("STEP", "NODES", "CHANGED", "SECONDS", "VERIFYING", "PROVIDED BY")
        return table(header, rows, right=(3, 4))


def convert(
    target: Target,
    pipeline: Pipeline,
    session: Session,
    doing: Progress,
    *,
    seed: int,
    tolerance: float | None,
    dynamic_shapes: Any = None,
    observers: Sequence[object] = (),
) -> Conversion:
    """Capture a target, run a pipeline on it and compare the outcome with eager.

    Args:
        target: What to capture; it remains as it is.
        pipeline: The passes to run.
        session: The plugins to do it with.
        doing: Told what is being done.
        seed: Of torch's random numbers, for the program and for eager.
        tolerance: The relative deviation to allow; None is by precision.
        dynamic_shapes: Which sizes may differ from call to call.
        observers: Who is told of passes besides plugins.

    Raises:
        CaptureError: The target cannot be captured.
        PassError: A pass failed, or the program does not compute what eager does.
    """
    seconds: dict[str, float] = {}

    def timed(name: str, function: Callable[[], T]) -> T:
        start = perf_counter()
        result = function()
        seconds[name] = perf_counter() - start
        return result

    args, kwargs = copied((target.args, target.kwargs))
    for_eager = Target(*copied((target.function, target.args, target.kwargs)))
    doing("capturing")
    captured = timed("capture", lambda: _capture(session, target, dynamic_shapes))
    doing(f"running {pipeline}")
    with during("pipeline", "running the passes"):
        result = session.run(pipeline, captured, observers=observers)
    program = result.program
    doing("running the program")
    found = timed("program", lambda: run_program(program, args, kwargs, seed))
    doing("running eager")
    names = changeable_state(program)
    expected = timed("eager", lambda: run_eagerly(for_eager, names, seed))
    deviation = compare(expected, found, tolerance)
    written = [str(step) for step in pipeline.passes]
    texts = tuple(written[record.step.index] for record in result.records)
    return Conversion(
        program, count_nodes(captured.graph_module), result.records, texts, deviation, seconds
    )


def _capture(session: Session, target: Target, dynamic_shapes: Any) -> Program:
    modes = [name for name, entry in session.modes.items() if entry.value.reports]
    codes = list(session.hazards)
    with warnings.catch_warnings():
        # Findings that become warnings are part of the answer already.
        warnings.filterwarnings("ignore", rf"(.*: )?({'|'.join(codes) or '(?!)'}) ", UserWarning)
        with during("capture", "capturing"):
            return session.capture(
                target.function,
                target.args,
                target.kwargs,
                dynamic_shapes=dynamic_shapes,
                modes=modes,
                record_module_stack=bool(modes),
            )


def _record_data(record: PassRecord, text: str) -> dict[str, Any]:
    return {
        "text": text,
        "name": record.step.name,
        "options": dict(record.step.options),
        "provider": asdict(record.step.provider),
        "modified": record.modified,
        "nodes_before": record.nodes_before,
        "nodes_after": record.nodes_after,
        "seconds": record.seconds,
        "verify_seconds": record.verify_seconds,
    }


def _time(seconds: float) -> str:
    return f"{seconds:.3f}"
