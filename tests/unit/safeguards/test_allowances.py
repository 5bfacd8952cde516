"""What the user allows at its line, and why."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import hopyard
from hopyard.errors import SafeguardError, UnknownNameError, UsageError
from hopyard_hookspecs import (
    Finding,
    Hazard,
    Policy,
    Safeguard,
    State,
    Suspicion,
    Watch,
    hookimpl,
)

CALLED = Hazard("TS001", "sine", remedy="use a cosine")
SUSPECTED = Hazard("TS002", "cosine", remedy="use a sine")
RECORDED = Hazard("TS003", "tangent", remedy="use none")
CHANGED = Hazard("TS004", "a counter", remedy="do not count")
COUNTER: list[int] = []


class Guard:
    """One hazard of each kind."""

    def watched(self) -> Watch:
        suspicion = Finding("TS002", "cosine")
        return Watch(
            functions={
                torch.sin: lambda call: Finding("TS001", "sine"),
                torch.cos: lambda call: Suspicion(suspicion, lambda recording: suspicion),
            },
            operators={torch.ops.aten.tan.default: lambda node, recording: Finding("TS003", "tan")},
            states=[
                State(
                    lambda: len(COUNTER),
                    lambda old, new: Finding("TS004", "counted") if old != new else None,
                )
            ],
        )

    @hookimpl
    def hopyard_register_safeguards(self) -> Iterator[Safeguard]:
        hazards = (CALLED, SUSPECTED, RECORDED, CHANGED)
        yield Safeguard("test-every-kind", hazards, watch=self.watched)


def session() -> hopyard.Session:
    return hopyard.Session(discover=False, plugins=[Guard()])


def sine(x: Tensor) -> Tensor:
    return torch.sin(x)


def cosine(x: Tensor) -> Tensor:
    return torch.cos(x)


def tangent(x: Tensor) -> Tensor:
    return torch.tan(x)


def counting(x: Tensor) -> Tensor:
    COUNTER.append(1)
    return x + 1


KINDS = [("TS001", sine), ("TS002", cosine), ("TS003", tangent), ("TS004", counting)]


@pytest.mark.parametrize(("code", "function"), KINDS)
class TestEveryKind:
    """Called, suspected, recorded and state: each kind of finding meets the same rules."""

    def test_it_refuses(self, code: str, function: Any) -> None:
        with pytest.raises(SafeguardError) as raised:
            session().capture(function, (torch.ones(2),))
        assert raised.value.finding.code == code
        if function is not counting:
            assert raised.value.location.line == function.__code__.co_firstlineno + 1

    def test_a_block_that_allows_it_records_the_reason(self, code: str, function: Any) -> None:
        def program(x: Tensor) -> Tensor:
            with hopyard.allow(code, reason="meant so"):
                return function(x)

        (finding,) = session().capture(program, (torch.ones(2),)).findings
        assert (finding.code, finding.policy, finding.allowed) == (code, Policy.RECORD, "meant so")
        assert "meant so" in str(finding)

    def test_a_decorated_function_is_allowed(self, code: str, function: Any) -> None:
        allowed = hopyard.allow(code, reason="meant so")(function)
        for _ in range(2):
            (finding,) = session().capture(lambda x: allowed(x) + 1, (torch.ones(2),)).findings
            assert finding.allowed == "meant so"

    def test_allowing_around_the_capture_counts(self, code: str, function: Any) -> None:
        with hopyard.allow(code, reason="meant so"):
            (finding,) = session().capture(function, (torch.ones(2),)).findings
        assert finding.allowed == "meant so"
        with pytest.raises(SafeguardError):
            session().capture(function, (torch.ones(2),))

    def test_another_code_is_not_allowed(self, code: str, function: Any) -> None:
        other = next(each for each, _ in KINDS if each != code)
        with pytest.raises(SafeguardError), hopyard.allow(other, reason="meant so"):
            session().capture(function, (torch.ones(2),))

    def test_it_is_allowed_on_one_thread(self, code: str, function: Any) -> None:
        caught: list[Exception] = []

        def elsewhere() -> None:
            try:
                session().capture(function, (torch.ones(2),))
            except SafeguardError as error:
                caught.append(error)

        with hopyard.allow(code, reason="meant so"):
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
        assert len(caught) == 1

    def test_what_is_ignored_is_not_recorded(self, code: str, function: Any) -> None:
        with hopyard.allow(code, reason="meant so"):
            program = session().capture(function, (torch.ones(2),), policy=Policy.IGNORE)
        assert program.findings == ()


def test_only_the_block_is_allowed() -> None:
    def before(x: Tensor) -> Tensor:
        y = torch.tan(x)
        with hopyard.allow("TS003", reason="meant so"):
            return torch.tan(y)

    def after(x: Tensor) -> Tensor:
        with hopyard.allow("TS003", reason="meant so"):
            y = torch.tan(x)
        return torch.tan(y)

    for program, line in ((before, 1), (after, 3)):
        with pytest.raises(SafeguardError) as raised:
            session().capture(program, (torch.ones(2),))
        assert raised.value.location.line == program.__code__.co_firstlineno + line


def test_the_innermost_reason_is_told() -> None:
    def program(x: Tensor) -> Tensor:
        with hopyard.allow("TS001", "TS002", reason="outer"):
            with hopyard.allow("TS001", reason="inner"):
                y = torch.sin(x)
            return torch.cos(y)

    findings = session().capture(program, (torch.ones(2),)).findings
    assert {each.code: each.allowed for each in findings} == {"TS001": "inner", "TS002": "outer"}


def test_an_error_inside_ends_the_block() -> None:
    def program(x: Tensor) -> Tensor:
        try:
            with hopyard.allow("TS001", reason="meant so"):
                raise ValueError
        except ValueError:
            return torch.sin(x)

    with pytest.raises(SafeguardError):
        session().capture(program, (torch.ones(2),))


def test_an_unknown_code_refuses_the_capture_and_cannot_be_caught() -> None:
    def program(x: Tensor) -> Tensor:
        try:
            with hopyard.allow("TS0O1", reason="a slip"):
                return x + 1
        except UnknownNameError:
            return x + 2

    with pytest.raises(UnknownNameError) as raised:
        session().capture(program, (torch.ones(2),))
    assert raised.value.closest == "TS001"
    with hopyard.allow("TS0O1", reason="a slip"), pytest.raises(UnknownNameError):
        session().capture(sine, (torch.ones(2),))


def test_a_code_of_a_plugin_that_is_not_installed_is_no_slip() -> None:
    """A library that allows a hazard must work where nobody looks for it."""

    def program(x: Tensor) -> Tensor:
        with hopyard.allow("HY113", reason="its backward is exact"):
            return x + 1

    assert session().capture(program, (torch.ones(2),)).findings == ()


def test_no_code_and_no_reason_are_refused_at_once() -> None:
    for arguments in ((), ("TS001",)):
        with pytest.raises(UsageError) as raised:
            hopyard.allow(*arguments)
        assert "reason=" in raised.value.hint
    with pytest.raises(UsageError):
        hopyard.allow("TS001", reason="  ")


def test_outside_of_captures_it_does_nothing_and_needs_no_torch() -> None:
    script = (
        "import sys, hopyard\n"
        "with hopyard.allow('HY101', reason='meant so'):\n"
        "    pass\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_several_refusals_are_told_together() -> None:
    def program(x: Tensor) -> Tensor:
        return torch.tan(torch.cos(x))

    with pytest.raises(SafeguardError) as raised:
        session().capture(program, (torch.ones(2),))
    assert [each.code for each in raised.value.findings] == ["TS002", "TS003"]
    assert any("TS003" in note for note in raised.value.__notes__)
