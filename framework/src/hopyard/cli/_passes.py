"""`hopyard passes`."""

from __future__ import annotations

import argparse
import inspect
from dataclasses import asdict
from typing import Any

from hopyard_hookspecs import Pass

from ..pipeline import Option, options_of
from ..plugins import Registered, resolve
from ..session import Session
from ._answer import Answer, table
from ._sessions import open_session

SUMMARY = "List the passes that a pipeline may name, or describe one of them."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="describe this pass and its options"
    )


def answer(arguments: argparse.Namespace) -> Answer:
    """List every pass, or describe one, for which its implementation is imported.

    Raises:
        UnknownNameError: There is no such pass.
        PluginError: Its implementation cannot be imported or declares unusable options.
    """
    session = open_session()
    if arguments.name is not None:
        return _described(session.lookup("pass", arguments.name, session.passes))
    return _listed(session)


def _listed(session: Session) -> Answer:
    entries = [entry for _, entry in sorted(session.passes.items())]
    data = {"passes": [_as_data(entry) for entry in entries]}
    if not entries:
        return Answer(["No plugin provides a pass."], data)
    rows = [
        (entry.value.name, entry.value.summary or "-", str(entry.provider)) for entry in entries
    ]
    return Answer(table(("PASS", "SUMMARY", "PROVIDED BY"), rows), data)


def _described(entry: Registered[Pass]) -> Answer:
    implementation: Any = resolve(entry.value.implementation, entry.provider)
    options = options_of(implementation, entry.value.name, entry.provider)
    lines = [
        f"{entry.value.name}: {entry.value.summary}".removesuffix(": "),
        f"transforms a {entry.value.kind}, provided by {entry.provider}",
        *_order(entry.value),
        "",
    ]
    if options:
        lines += ["options:", *(f"  {option}" for option in options)]
    else:
        lines.append("no options")
    if documentation := _documentation(implementation):
        lines += ["", documentation]
    return Answer(lines, _as_data(entry) | {"options": [_option_data(each) for each in options]})


def _order(declared: Pass) -> list[str]:
    """Return what a pass demands of pipelines."""
    demands = (
        ("must run before", declared.must_run_before),
        ("must run after", declared.must_run_after),
        ("runs before", declared.runs_before),
        ("runs after", declared.runs_after),
    )
    return [f"{words} {', '.join(names)}" for words, names in demands if names]


def _documentation(implementation: object) -> str:
    """Return a docstring that somebody wrote; dataclasses get one that nobody did."""
    text = inspect.getdoc(implementation) or ""
    generated = f"{getattr(implementation, '__name__', '')}("
    return "" if text.startswith(generated) else text


def _option_data(option: Option) -> dict[str, Any]:
    return {
        "name": option.name,
        "type": option.type_name,
        "required": option.required,
        "default": option.default,
    }


def _as_data(entry: Registered[Pass]) -> dict[str, Any]:
    return {
        "name": entry.value.name,
        "kind": entry.value.kind,
        "summary": entry.value.summary,
        "must_run_before": list(entry.value.must_run_before),
        "must_run_after": list(entry.value.must_run_after),
        "runs_before": list(entry.value.runs_before),
        "runs_after": list(entry.value.runs_after),
        "provider": asdict(entry.provider),
    }
