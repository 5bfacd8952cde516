"""`hopyard plugins check`."""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Iterator

from hopyard_hookspecs import Provider, Reference

from ..errors import HopyardError, PluginLoadError
from ..plugins import PluginInfo, PluginStatus, resolve
from ..session import Session
from ._answer import Answer
from ._plugins import as_data

SUMMARY = "Load every installed plugin with all that it refers to, and report each failure."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--traceback", action="store_true", help="show where each failure comes from"
    )


def answer(arguments: argparse.Namespace) -> Answer:
    """Report on every plugin; the code is 1 if something is wrong with one.

    Implementations that plugins name as text are imported, which listing avoids.
    """
    session = Session(strict=False)
    infos = session.plugins.infos
    problems = [_problems(info, session) for info in infos]
    lines: list[str] = []
    for info, found in zip(infos, problems, strict=True):
        lines.append(f"{_verdict(info, found):<12}  {info.provider}")
        for problem in found:
            lines += [f"    {line}" for line in _told(problem, whole=arguments.traceback)]
    faulty = sum(map(bool, problems))
    lines += ["", f"{faulty} of {len(infos)} plugins at fault." if faulty else _all_well(infos)]
    data = {
        "plugins": [
            as_data(info) | {"ok": not found, "problems": [str(problem) for problem in found]}
            for info, found in zip(infos, problems, strict=True)
        ]
    }
    return Answer(lines, data, code=1 if faulty else 0)


def _problems(info: PluginInfo, session: Session) -> list[HopyardError]:
    found: list[HopyardError] = [info.error] if info.error is not None else []
    if info.status is not PluginStatus.ACTIVE:
        return found
    for reference, provider in _references(session):
        if provider != info.provider:
            continue
        try:
            resolve(reference, provider)
        except PluginLoadError as error:
            found.append(error)
    return found


def _references(session: Session) -> Iterator[tuple[Reference, Provider]]:
    for mode in session.modes.values():
        yield mode.value.factory, mode.provider
    for rule in session.trace_rules.values():
        yield rule.value.rule, rule.provider
    for table in session.decompositions.values():
        yield table.value.table, table.provider
    for safeguard in session.safeguards.values():
        yield safeguard.value.watch, safeguard.provider
    for entry in session.passes.values():
        yield entry.value.implementation, entry.provider
    for backend in session.backends.values():
        yield backend.value.implementation, backend.provider


def _verdict(info: PluginInfo, problems: list[HopyardError]) -> str:
    if problems and info.status is PluginStatus.ACTIVE:
        return PluginStatus.FAILED
    return "ok" if info.status is PluginStatus.ACTIVE else info.status


def _told(error: HopyardError, *, whole: bool) -> list[str]:
    if whole:
        return "".join(traceback.format_exception(error)).splitlines()
    message = f"{error.message}; {error.hint}" if error.hint else error.message
    frames = traceback.extract_tb(error.__cause__.__traceback__) if error.__cause__ else []
    places = [f"{frame.filename}:{frame.lineno}" for frame in frames if frame.filename[0] != "<"]
    return [message, *(f"raised at {place}" for place in places[-1:])]


def _all_well(infos: tuple[PluginInfo, ...]) -> str:
    return "Every plugin works." if infos else "No plugins are installed."
