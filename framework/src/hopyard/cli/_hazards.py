"""`hopyard hazards`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from hopyard_hookspecs import Hazard, Policy, Safeguard

from ..plugins import Registered
from ..policies import check_codes, find_policies
from ..session import Session
from ._answer import Answer, table
from ._sessions import open_session

SUMMARY = "List what safeguards look for, or describe one hazard."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("code", nargs="?", metavar="CODE", help="describe this hazard")


def answer(arguments: argparse.Namespace) -> Answer:
    """List every hazard with its policy here, or describe one.

    Raises:
        UnknownNameError: No safeguard reports the code.
        UsageError: `pyproject.toml` states policies that are none.
    """
    session = open_session()
    hazards, policies = session.hazards, find_policies()
    if arguments.code is not None:
        check_codes([arguments.code], hazards)
        return _described(session, hazards[arguments.code], policies)
    found = [hazards[code] for code in sorted(hazards)]
    data = {"hazards": [_as_data(session, each, policies) for each in found]}
    if not found:
        return Answer(["No plugin provides a safeguard."], data)
    rows = [
        (each.code, _policy(each, policies).value, each.title, str(_entry(session, each).provider))
        for each in found
    ]
    return Answer(table(("CODE", "POLICY", "HAZARD", "FOUND BY"), rows), data)


def _described(session: Session, hazard: Hazard, policies: dict[str, Policy]) -> Answer:
    entry = _entry(session, hazard)
    lines = [
        f"{hazard.code}: {hazard.title}",
        f"severity {hazard.severity.value}, policy {_policy(hazard, policies).value}, "
        f"found by {entry.value.name} of {entry.provider}",
        "",
        f"remedy: {hazard.remedy}",
    ]
    if hazard.page:
        lines.append(f"see {hazard.page}")
    return Answer(lines, _as_data(session, hazard, policies))


def _entry(session: Session, hazard: Hazard) -> Registered[Safeguard]:
    entries = session.safeguards.values()
    return next(entry for entry in entries if hazard in entry.value.hazards)


def _policy(hazard: Hazard, policies: dict[str, Policy]) -> Policy:
    return policies.get(hazard.code, hazard.severity.policy)


def _as_data(session: Session, hazard: Hazard, policies: dict[str, Policy]) -> dict[str, Any]:
    entry = _entry(session, hazard)
    return asdict(hazard) | {
        "severity": hazard.severity.value,
        "policy": _policy(hazard, policies).value,
        "safeguard": entry.value.name,
        "provider": asdict(entry.provider),
    }
