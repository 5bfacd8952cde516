"""The entry point: reads the command line, runs one command, turns errors into messages."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from ..errors import HopyardError, UsageError
from . import _check, _hazards, _hooks, _hops, _new_plugin, _passes, _plugins, _run, _show
from ._answer import Answer, to_json
from ._console import PROGRAM, complain
from ._factory import FactoryError
from ._parser import Parser

FAILED = 1
MISUSED = 2
INTERRUPTED = 130
CLOSED = 141
"""Nobody reads the answer any more; what a shell reports of a program that SIGPIPE ended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    0: done. 1: something failed. 2: the command line asks for what cannot be. 130: interrupted.

    Args:
        argv: The command line without the program's name; that of the process if None.
    """
    show_traceback = False
    try:
        arguments = _parser().parse(argv)
        show_traceback = getattr(arguments, "traceback", False)
        return _print(_answer(arguments), as_json=arguments.json)
    except SystemExit as done:
        return int(done.code or 0)
    except FactoryError as error:
        print(error.traceback, file=sys.stderr, end="")
        complain(error)
        return FAILED
    except HopyardError as error:
        if show_traceback:
            traceback.print_exception(error)
        _explain(error)
        return MISUSED if isinstance(error, UsageError) else FAILED
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes standard output once more when it exits; that must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED


def _parser() -> Parser:
    parser = Parser(
        prog=PROGRAM, description="Capture PyTorch programs as graphs and transform them."
    )
    parser.set_defaults(parser=parser)
    parser.add_argument("--version", action=_ShowVersion, help="print the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    plugins = commands.add_parser("plugins", help="list or check the installed plugins")
    on_plugins = plugins.add_subparsers(metavar="COMMAND", required=True)
    for name, group, module in (
        ("list", on_plugins, _plugins),
        ("check", on_plugins, _check),
        ("hops", commands, _hops),
        ("passes", commands, _passes),
        ("hazards", commands, _hazards),
        ("hooks", commands, _hooks),
        ("new-plugin", commands, _new_plugin),
        ("run", commands, _run),
        ("show", commands, _show),
    ):
        summary = module.SUMMARY
        command = group.add_parser(
            name,
            help=summary[0].lower() + summary[1:].rstrip("."),
            description=summary,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("--json", action="store_true", help="print one JSON object")
        module.configure(command)
        command.set_defaults(command=module.answer, parser=command)
    return parser


class _ShowVersion(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, **settings: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, **settings)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib_metadata import version

        print(f"{PROGRAM} {version(PROGRAM)}")
        parser.exit()


def _answer(arguments: argparse.Namespace) -> Answer:
    """Run the command; where a program reads the answer, what user code prints goes elsewhere."""
    diverted = contextlib.redirect_stdout(sys.stderr) if arguments.json else None
    with diverted or contextlib.nullcontext():
        answer: Answer = arguments.command(arguments)
        return answer


def _print(answer: Answer, *, as_json: bool) -> int:
    print(to_json(answer.data) if as_json else "\n".join(answer.lines), flush=True)
    return answer.code


def _explain(error: HopyardError) -> None:
    complain(error)
    for note in getattr(error, "__notes__", ()):
        print(note, file=sys.stderr)
