"""The tests that every safeguard should pass, for its author to run."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hopyard_hookspecs import Finding, Policy, Severity

from .._torch.dispatch import dispatch_mode_stack, function_mode_stack
from ..errors import SafeguardError
from ..safeguards import WatchList
from ..session import Session
from ._effects import observed_effects, same_effects

_ORDINARY = (
    Tensor.add,
    Tensor.mul,
    Tensor.matmul,
    Tensor.view,
    Tensor.reshape,
    Tensor.transpose,
    Tensor.shape.__get__,  # type: ignore[attr-defined]
    torch.cat,
    torch.nn.functional.linear,
    torch.nn.functional.layer_norm,
    torch.nn.functional.relu,
)
_MARK = re.compile(r"#.*\b([A-Z]{2,4}[0-9]{3})\b")


@dataclass(frozen=True)
class SafeguardExample:
    """A program in which a safeguard finds something, or nothing.

    The line of each finding bears its code in a comment, as in
    `with torch.no_grad():  # HY101`; a program without such comments is clean.

    Attributes:
        program: The function to capture.
        args: Its arguments.
        remedied: The same without the hazard; None if nothing takes its place.
    """

    program: Callable[..., Any]
    args: tuple[Any, ...]
    remedied: Callable[..., Any] | None = None

    def __str__(self) -> str:
        return self.program.__name__

    @property
    def marks(self) -> list[tuple[int, str]]:
        """Lines of the file that findings are expected at, and their codes."""
        lines, first = inspect.getsourcelines(self.program)
        found = [(first + offset, _MARK.search(line)) for offset, line in enumerate(lines)]
        return [(line, mark[1]) for line, mark in found if mark]


class SafeguardContract:
    """The tests that every safeguard should pass; pytest runs them for each subclass.

    Example::

        class TestDropoutSafeguard(SafeguardContract):
            plugins = (my_plugin,)
            examples = (
                SafeguardExample(with_dropout, (x,), remedied=without_dropout),
                SafeguardExample(clean, (x,)),
            )

    Attributes:
        plugins: Modules or objects with hook implementations; none other is used.
        examples: Programs with findings at marked lines, and clean ones.
    """

    plugins: ClassVar[Sequence[object]] = ()
    examples: ClassVar[Sequence[SafeguardExample]] = ()

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Run each test for each example."""
        if "example" in metafunc.fixturenames:
            metafunc.parametrize("example", self.examples, ids=str)

    def session(self) -> Session:
        """Return a session with the safeguard alone."""
        return Session(plugins=self.plugins, discover=False)

    def test_findings_are_at_the_marked_lines(self, example: SafeguardExample) -> None:
        """What is marked is found there, and nothing else is."""
        program = self.session().capture(example.program, example.args, policy=Policy.RECORD)
        found = [_where(finding) for finding in program.findings]
        assert sorted(found) == sorted(example.marks)

    def test_errors_refuse_the_capture(self, example: SafeguardExample) -> None:
        """The worst finding decides, unless the user says otherwise."""
        session = self.session()
        hazards = session.hazards
        errors = [code for _, code in example.marks if hazards[code].severity is Severity.ERROR]
        refusal = None
        try:
            session.capture(example.program, example.args)
        except SafeguardError as error:
            refusal = error
        assert (refusal is None) == (not errors)
        if refusal is not None:
            assert refusal.finding.code in errors
            assert refusal.finding.message
            assert refusal.hint
            assert refusal.plugin is not None

    def test_an_error_is_none_of_imagination(self, example: SafeguardExample) -> None:
        """A capture that would be refused differs from eager; one that would not does not."""
        session = self.session()
        hazards = session.hazards
        program = session.capture(example.program, example.args, policy=Policy.IGNORE)
        eager = observed_effects(example.program, example.args)
        same = same_effects(eager, observed_effects(program, example.args))
        severities = {hazards[code].severity for _, code in example.marks}
        assert same == (Severity.ERROR not in severities)

    def test_the_remedy_helps(self, example: SafeguardExample) -> None:
        """What takes the program's place is captured, and does what the program does."""
        if example.remedied is None:
            return
        program = self.session().capture(example.remedied, example.args)
        wanted = observed_effects(example.remedied, example.args)
        assert same_effects(wanted, observed_effects(program, example.args))
        assert same_effects(wanted, observed_effects(example.program, example.args))

    def test_no_state_is_left(self, example: SafeguardExample) -> None:
        """Modes and random numbers are as before, whatever comes of the capture."""
        session = self.session()
        for policy in Policy:
            before = _state()
            with warnings.catch_warnings(), suppress(SafeguardError):
                warnings.simplefilter("ignore")
                session.capture(example.program, example.args, policy=policy)
            assert _state() == before

    def test_ordinary_programs_cost_no_checks(self) -> None:
        """What nearly every program calls is not watched: each check would slow captures down."""
        watched = WatchList.of(self.session().safeguards.values())
        assert watched.functions.keys().isdisjoint(_ORDINARY)


def _where(finding: Finding) -> tuple[int, str]:
    return (0 if finding.location is None else finding.location.line), finding.code


def _state() -> list[Any]:
    return [
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        torch.random.get_rng_state().tolist(),
        dispatch_mode_stack(),
        function_mode_stack(),
    ]
