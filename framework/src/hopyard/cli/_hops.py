"""`hopyard hops`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hopyard_hookspecs import Hop

from ..errors import UsageError
from ..plugins import Registered
from ..session import Session
from ._answer import Answer, table
from ._factory import FactoryName, find_factory, importing_from_working_directory
from ._sessions import open_session

if TYPE_CHECKING:
    from ..testing import HopSample, SurfaceVerdict

SUMMARY = "List the higher-order operators that plugins define, or check one on every surface."

_DETAILS = """\
SAMPLES is a function without arguments in MODULE that returns a list of hopyard.testing.HopSample:
the calls to try. Without it, a region is tried with a body of two operands and no configuration.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = _DETAILS
    parser.add_argument("action", nargs="?", choices=("check",), metavar="check")
    parser.add_argument("name", nargs="?", metavar="NAME", help="the operator to check")
    parser.add_argument("--samples", metavar="MODULE:SAMPLES", help="makes the calls to try")


def answer(arguments: argparse.Namespace) -> Answer:
    """List every operator with who provides it, or call one on every surface.

    Raises:
        UnknownNameError: There is no such operator.
        UsageError: Nothing is named to check, or the operator needs samples.
    """
    session = open_session()
    if arguments.action is None:
        return _listed(session)
    if arguments.name is None:
        raise UsageError("nothing is named to check", hint="write hopyard hops check NAME")
    entry = session.lookup("higher-order operator", arguments.name, session.hops)
    return _checked(entry, _samples(entry.value, arguments.samples))


def _samples(definition: Hop, name: str | None) -> list[HopSample]:
    if name is not None:
        with importing_from_working_directory():
            make: Any = find_factory(FactoryName.parse(name))
            return list(make())
    if definition.kind != "region":
        raise UsageError(
            f"{definition.name} has no body, and only its author knows what it takes",
            hint="name calls to try with --samples MODULE:SAMPLES",
        )
    import torch

    from ..testing import HopSample

    def body(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x.sin() + y * 2

    return [HopSample((body, torch.linspace(0, 1, 6), torch.linspace(1, 2, 6)))]


def _checked(entry: Registered[Hop], samples: list[HopSample]) -> Answer:
    from ..hops import bind
    from ..testing import check_hop

    verdicts = check_hop(bind(entry.value), samples)
    wrong = [each for each in verdicts if each.problem]
    rows = [(each.surface, each.sample, each.problem or "ok", _advice(each)) for each in verdicts]
    lines = [
        f"{entry.value.name}, provided by {entry.provider}",
        "",
        *table(("SURFACE", "SAMPLE", "VERDICT", "WHAT DECIDES IT"), rows),
        "",
        f"{len(verdicts) - len(wrong)} of {len(verdicts)} are right.",
    ]
    data = {"name": entry.value.name, "verdicts": [asdict(each) for each in verdicts]}
    return Answer(lines, data, code=1 if wrong else 0)


def _advice(verdict: SurfaceVerdict) -> str:
    return verdict.rule if verdict.problem else "-"


def _listed(session: Session) -> Answer:
    entries = [entry for _, entry in sorted(session.hops.items())]
    data = {
        "hops": [
            {
                "name": entry.value.name,
                "kind": entry.value.kind,
                "summary": entry.value.summary,
                "provider": asdict(entry.provider),
            }
            for entry in entries
        ]
    }
    if not entries:
        return Answer(["No plugin defines a higher-order operator."], data)
    rows = [
        (entry.value.name, entry.value.kind, entry.value.summary or "-", str(entry.provider))
        for entry in entries
    ]
    return Answer(table(("OPERATOR", "KIND", "SUMMARY", "PROVIDED BY"), rows), data)
