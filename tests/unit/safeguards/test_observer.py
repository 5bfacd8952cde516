"""What becomes of findings, and that nothing escapes an observer while a capture runs."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import _get_current_function_mode_stack

import hopyard
from hopyard.errors import (
    PluginError,
    PluginLoadError,
    SafeguardError,
    UnknownNameError,
    UsageError,
)
from hopyard_hookspecs import (
    Finding,
    Hazard,
    ObservedCall,
    Policy,
    Safeguard,
    Severity,
    Watch,
    hookimpl,
)

HAZARD = Hazard("TS001", "sine", remedy="use a cosine")
OTHER = Hazard("TS002", "hyperbolic", remedy="do not", severity=Severity.NOTE)


def finding(call: ObservedCall) -> Finding:
    return Finding("TS001", f"{call.function.__name__} of {call.args[0].shape[0]}")


class Guard:
    """One safeguard that watches sine with a check of one's own."""

    check: Callable[[ObservedCall], Finding | None]

    def __init__(self, check: Any = finding, hazards: tuple[Hazard, ...] = (HAZARD, OTHER)) -> None:
        self.check = check
        self.hazards = hazards

    def watched(self) -> Watch:
        return Watch({torch.sin: self.check, torch.Tensor.sin: self.check})

    @hookimpl
    def hopyard_register_safeguards(self) -> Iterator[Safeguard]:
        yield Safeguard("test-sine", self.hazards, watch=self.watched)


class Second(Guard):
    """Another plugin with a safeguard for the same function."""

    @hookimpl
    def hopyard_register_safeguards(self) -> Iterator[Safeguard]:
        yield Safeguard("test-second", self.hazards, watch=self.watched)


def capture(
    target: Any, *guards: object, policy: Policy | Mapping[str, Policy] | None = None
) -> hopyard.Program:
    session = hopyard.Session(discover=False, plugins=guards or [Guard()])
    return session.capture(target, (torch.ones(2),), policy=policy)


def sine(a: Tensor) -> Tensor:
    b = a + 1
    return torch.sin(b)


LINE = sine.__code__.co_firstlineno + 2


def test_an_error_refuses_the_capture_at_the_line() -> None:
    with pytest.raises(SafeguardError) as raised:
        capture(sine)
    error = raised.value
    assert (error.location.file, error.location.line) == (__file__, LINE)
    assert error.location.function == "sine"
    assert error.finding.code == "TS001"
    assert error.finding.message == "sin of 2"
    assert error.finding.remedy == error.hint == "use a cosine"
    assert error.finding.safeguard == error.stage == "test-sine"
    assert error.finding.policy is Policy.ERROR
    assert error.plugin.plugin == "guard"
    assert "add" in str(error.partial_graph)


def test_a_warning_is_issued_at_the_line_and_kept() -> None:
    with pytest.warns(UserWarning, match="TS001 sin of 2") as warned:
        program = capture(sine, policy={"TS001": Policy.WARN})
    (warning,) = warned
    assert (warning.filename, warning.lineno) == (__file__, LINE)
    (kept,) = program.findings
    assert kept.policy is Policy.WARN
    assert "use a cosine" in str(kept)


def test_a_warning_made_an_error_fails_the_capture() -> None:
    before = _get_current_function_mode_stack()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(hopyard.errors.HopyardError):
            capture(sine, policy={"TS001": Policy.WARN})
    assert _get_current_function_mode_stack() == before


def test_a_record_is_kept_in_silence() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        program = capture(sine, policy=Policy.RECORD)
    assert capture(sine, policy={"TS001": Policy.RECORD}).findings == program.findings
    assert [(each.code, each.policy) for each in program.findings] == [("TS001", Policy.RECORD)]
    assert program(torch.ones(2)).tolist() == torch.full((2,), 2.0).sin().tolist()


def test_what_is_ignored_leaves_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert capture(sine, policy={"TS001": Policy.IGNORE}).findings == ()


def test_a_hazard_has_a_policy_of_its_own() -> None:
    guard = Guard(lambda call: Finding("TS002", "seen"))
    (kept,) = capture(sine, guard).findings
    assert kept.policy is Policy.RECORD
    with pytest.raises(SafeguardError):
        capture(sine, guard, policy={"TS002": Policy.ERROR})


def test_one_line_is_reported_once_and_two_lines_twice() -> None:
    def program(a: Tensor) -> Tensor:
        for _ in range(3):
            a = torch.sin(a)
        return a.sin() + torch.sin(a)

    findings = capture(program, policy={"TS001": Policy.RECORD}).findings
    lines = [each.location.line - program.__code__.co_firstlineno for each in findings]
    assert lines == [2, 3]


def test_findings_travel_with_graphs_made_from_the_program() -> None:
    program = capture(sine, policy={"TS001": Policy.RECORD})
    assert program.with_graph(program.graph_module).findings == program.findings


def test_a_policy_that_is_none_is_refused() -> None:
    wrong: Any = {"TS001": "error"}
    with pytest.raises(UsageError) as caught:
        capture(sine, policy=wrong)
    assert "Policy.ERROR" in str(caught.value)


def test_an_unknown_code_is_answered_with_the_closest() -> None:
    ran: list[Tensor] = []
    with pytest.raises(UnknownNameError) as raised:
        capture(ran.append, policy={"TS0O1": Policy.WARN})
    assert raised.value.closest == "TS001"
    assert raised.value.valid == ("TS001", "TS002")
    assert ran == []


def raising(call: ObservedCall) -> Finding:
    raise KeyError("broken check")


BROKEN: dict[str, Any] = {
    "raises": raising,
    "undeclared code": lambda call: Finding("TS009", "undeclared"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_check_is_attributed_and_fails_closed(kind: str) -> None:
    def careless(a: Tensor) -> Tensor:
        try:
            return torch.sin(a)
        except Exception:  # noqa: BLE001
            return a

    for target in (sine, careless):
        with pytest.raises(PluginError) as raised:
            capture(target, Guard(BROKEN[kind]))
        assert raised.value.plugin.plugin == "guard"
        assert raised.value.stage == "test-sine"
    assert kind != "raises" or isinstance(raised.value.__cause__, KeyError)
    assert kind != "undeclared code" or "TS009" in raised.value.message


def swallowed(a: Tensor) -> Tensor:
    try:
        return torch.sin(a)
    except Exception:  # noqa: BLE001
        return a


def returned_early(a: Tensor) -> Tensor:
    try:
        a = torch.sin(a)
    finally:
        return a  # noqa: B012


def replaced(a: Tensor) -> Tensor:
    try:
        return torch.sin(a)
    except SafeguardError as error:
        raise RuntimeError("something else") from error


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@pytest.mark.parametrize("target", [swallowed, returned_early, replaced])
def test_a_refusal_cannot_be_swallowed(target: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(SafeguardError) as raised:
        capture(target)
    assert raised.value.finding.code == "TS001"


def test_the_first_refusal_is_reported() -> None:
    def program(a: Tensor) -> Tensor:
        return swallowed(a) + swallowed(torch.ones(3))

    with pytest.raises(SafeguardError, match="sin of 2"):
        capture(program)


def test_several_safeguards_watch_one_function() -> None:
    seen: list[str] = []

    def first(call: ObservedCall) -> Finding:
        seen.append("first")
        return Finding("TS001", "first")

    def second(call: ObservedCall) -> Finding:
        seen.append("second")
        return Finding("TS003", "second")

    guards = (Guard(first), Second(second, (Hazard("TS003", "third", remedy=""),)))
    program = capture(sine, *guards, policy={"TS001": Policy.RECORD, "TS003": Policy.RECORD})
    assert sorted(seen) == ["first", "second"]
    assert {each.safeguard for each in program.findings} == {"test-sine", "test-second"}
    with pytest.raises(SafeguardError) as raised:
        capture(sine, *guards, policy={"TS001": Policy.IGNORE})
    assert raised.value.finding.safeguard == "test-second"


def test_two_safeguards_may_share_a_hazard_only_if_they_agree() -> None:
    lenient = Hazard("TS001", "sine", remedy="none", severity=Severity.NOTE)
    quiet = Second(lambda call: None, (lenient,))
    for guards in ((Guard(), quiet), (quiet, Guard())):
        with pytest.raises((SafeguardError, PluginError)):
            capture(sine, *guards)


def test_checks_run_only_while_a_program_is_captured() -> None:
    calls: list[ObservedCall] = []
    guard = Guard(lambda call: calls.append(call))
    session = hopyard.Session(discover=False, plugins=[guard])
    torch.sin(torch.ones(2))
    program = session.capture(lambda a: a + 1, (torch.ones(2).sin(),))
    torch.sin(program(torch.ones(2)))

    def other_thread(a: Tensor) -> Tensor:
        thread = threading.Thread(target=lambda: torch.sin(torch.ones(2)))
        thread.start()
        thread.join()
        return a + 1

    session.capture(other_thread, (torch.ones(2),))
    assert calls == []
    session.capture(sine, (torch.ones(2),))
    (call,) = calls
    assert call.function is torch.sin
    assert call.pre_dispatch is False


def test_a_check_may_look_and_compute() -> None:
    def check(call: ObservedCall) -> None:
        (value,) = call.args
        assert value.shape == (2,)
        torch.sin(torch.ones(3))

    program = capture(sine, Guard(check))
    assert program(torch.ones(2)).shape == (2,)


@pytest.mark.parametrize(
    ("watch", "error"),
    [
        ("nowhere:nothing", PluginLoadError),
        ("os:nothing", PluginLoadError),
        (lambda: 1 / 0, PluginError),
        (lambda: 3, PluginError),
        (lambda: [torch.sin], PluginError),
        (lambda: None, PluginError),
    ],
)
def test_a_watch_that_cannot_be_had_is_attributed(watch: Any, error: type[PluginError]) -> None:
    class Unwatchable:
        @hookimpl
        def hopyard_register_safeguards(self) -> Iterator[Safeguard]:
            yield Safeguard("test-unwatchable", (HAZARD,), watch=watch)

    with pytest.raises(error) as raised:
        capture(lambda a: a + 1, Unwatchable())
    assert raised.value.plugin.plugin == "unwatchable"
    assert _get_current_function_mode_stack() == []


def test_nothing_is_left_of_an_observer_after_a_refusal() -> None:
    for _ in range(2):
        with pytest.raises(SafeguardError):
            capture(sine)
        assert _get_current_function_mode_stack() == []
    assert torch.sin(torch.zeros(1)).item() == 0


def test_programs_run_without_safeguards_of_later_sessions() -> None:
    program = capture(sine, policy={"TS001": Policy.RECORD})
    hopyard.Session(discover=False, plugins=[Guard(BROKEN["raises"])])
    assert program(torch.zeros(2)).tolist() == torch.ones(2).sin().tolist()
