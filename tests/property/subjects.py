"""What is drawn at random and run on programs of many kinds, and must keep what they compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pass_sequences import check_sequence, sequences
from pipelines import KINDS, MODELS, Kind, check, pipelines

from hopyard import Session
from hopyard_export_pass import _plugin


@dataclass(frozen=True)
class Subject:
    """Something to run on programs.

    Attributes:
        kinds: The programs.
        most: How many passes one example has at most.
        examples: Returns a strategy for a kind of program and a number of passes.
        check: Runs an example on a program; raises if the program computes anything else.
    """

    kinds: Mapping[str, Kind]
    most: int
    examples: Callable[[Kind, int], st.SearchStrategy[Any]]
    check: Callable[[Session, Kind, Any], None]

    def test(self, session: Session, kind: Kind, most: int, **options: Any) -> Callable[[], None]:
        """Return what runs examples of up to `most` passes on one kind of program.

        Args:
            session: Where passes are found.
            kind: The program.
            most: As said.
            options: Settings of hypothesis.
        """

        @settings(deadline=None, suppress_health_check=list(HealthCheck), **options)
        @given(self.examples(kind, most))
        def attempt(example: Any) -> None:
            self.check(session, kind, example)

        return attempt


SUBJECTS = {
    "sequences": Subject(KINDS, 6, lambda _, most: sequences(most), check_sequence),
    "pipelines": Subject(
        {**KINDS, **MODELS},
        8,
        lambda kind, most: pipelines(decompose=not kind.random, most=most),
        check,
    ),
}


def new_session() -> Session:
    """Return a session with the standard passes alone."""
    return Session(discover=False, plugins=[_plugin])
