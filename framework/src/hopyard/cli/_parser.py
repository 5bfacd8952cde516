"""Reading command lines, with errors that help."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from ..errors import UnknownNameError, UsageError


class Parser(argparse.ArgumentParser):
    """A parser that raises Hopyard's errors instead of printing its own and exiting."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Read a command line.

        Raises:
            UsageError: It cannot be read; the message names what could have been meant.
            SystemExit: It asked for help, which is printed.
        """
        arguments, unknown = self.parse_known_args(argv)
        for word in unknown:
            parser: Parser = arguments.parser
            raise parser.refusal(word)
        return arguments

    def refusal(self, word: str) -> UsageError:
        """Return what to say about a word of the command line that has no meaning."""
        if word.startswith("-"):
            options = [name for name in self._option_string_actions if name.startswith("--")]
            return UnknownNameError("option", word.partition("=")[0], options)
        return UsageError(f"{self.prog} does not take {word!r}", hint=self._advice())

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        raise UsageError(message, hint=self._advice())

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            kind = str(action.metavar or action.dest).lower()
            raise UnknownNameError(kind, str(value), map(str, action.choices))

    def _advice(self) -> str:
        return f"see '{self.prog} --help'"
