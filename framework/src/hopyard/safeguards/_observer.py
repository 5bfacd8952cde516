"""The one function mode through which all safeguards watch a capture."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from torch import is_grad_enabled
from torch.fx import Graph, Node
from torch.nn import Module
from torch.overrides import TorchFunctionMode

from hopyard_hookspecs import (
    Finding,
    Moment,
    ObservedCall,
    Policy,
    Review,
    SourceLocation,
    Suspicion,
)

from .._allowances import Allowance, allowances, listening
from .._torch.dispatch import set_grad_enabled
from .._torch.proxies import current_proxy_mode
from ..errors import HopyardError, PluginError, SafeguardError
from ..policies import check_allowance, check_policies
from ..tracing import active_tracer, current_location, node_location
from ._ambient import Ambient, Event
from ._recording import Recording, now
from ._watch_list import Watched, WatchList

_Judged = tuple[Finding, Watched[Any], Sequence[Allowance]]


@dataclass(frozen=True, slots=True)
class _Suspected:
    """A suspicion, and what was so when it arose."""

    suspicion: Suspicion
    watched: Watched[Any]
    moment: Moment
    location: SourceLocation | None
    allowed: tuple[Allowance, ...]


@dataclass(slots=True)
class _Span:
    """A part of the recording in which something is allowed."""

    allowance: Allowance
    start: Moment
    end: Moment | None = None


@dataclass(slots=True)
class _Level:
    """One graph under observation: the program's, or that of a region inside it."""

    graph: Graph | None
    root: Module | None = None
    ambient: Ambient = field(default_factory=Ambient)
    allowed: tuple[Allowance, ...] = field(default_factory=allowances)
    suspected: list[_Suspected] = field(default_factory=list)
    spans: list[_Span] = field(default_factory=list)
    listening: ExitStack = field(default_factory=ExitStack)


class Observer(TorchFunctionMode):
    """Looks every function call of the captured program up in one dictionary.

    It reports only while a tracer is active, so that what happens before, after or outside of a
    capture remains free. It is entered around the program, and once more around the body of each
    region; what only the whole recording tells is judged when it is left.

    Args:
        watched: What to look for.
        policies: What becomes of findings, by code, where it differs from the hazard's own policy.
        findings: Receives findings that do not refuse the capture.

    Attributes:
        refusal: The first error that refused the capture, also if the captured program swallowed
            it: a finding, or a check that failed.
        constants: Names of the placeholders through which no gradient is asked for.
        result: What the program returned, flat; None before it has.

    Raises:
        UnknownNameError: There is a policy for a code that no safeguard reports.
        UsageError: A policy is none.
    """

    def __init__(
        self,
        watched: WatchList,
        policies: Mapping[str, Policy],
        findings: list[Finding],
    ) -> None:
        super().__init__()
        check_policies(policies, watched.hazards)
        # The grad mode is kept up with also if nobody watches it.
        self._functions = {set_grad_enabled: (), **watched.functions}
        self._operators = {id(each): checks for each, checks in watched.operators.items()}
        self._watched = watched
        self._policies = policies
        self._findings = findings
        self._levels: list[_Level] = []
        self._before: list[Any] = []
        self.refusal: HopyardError | None = None
        self.constants: frozenset[str] = frozenset()
        self.result: list[Any] | None = None

    def __enter__(self) -> Observer:
        for allowance in allowances():
            check_allowance(allowance.codes, self._watched.hazards)
        if not self._levels:
            self._before = [each.run(each.check.read) for each in self._watched.states]
        tracer = active_tracer()
        level = _Level(None) if tracer is None else _Level(tracer.recorder.graph, tracer.root)
        level.listening.enter_context(listening(self._allowed))
        self._levels.append(level)
        super().__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, traceback)
        level = self._levels.pop()
        level.listening.close()
        if error is not None or self.refusal is not None:
            return
        try:
            self._judge(level)
        except HopyardError as refusal:
            self.refusal = refusal
            raise

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Check a watched call, then let it happen."""
        watches = self._functions.get(func)
        ambient = self._levels[-1].ambient
        if watches is None and is_grad_enabled() is ambient.grad_enabled and not ambient.attentive:
            return func(*args, **(kwargs or {}))
        return self._attend(watches or (), func, args, kwargs or {})

    def _attend(
        self,
        watches: tuple[Watched[Any], ...],
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        level = self._levels[-1]
        mode = current_proxy_mode()
        if mode is not None:
            for event in level.ambient.changes():
                self._inspect(level, self._functions.get(event.function, ()), event, {}, mode)
            self._inspect(level, watches, Event(func, args), kwargs, mode)
        try:
            return func(*args, **kwargs)
        finally:
            if func is set_grad_enabled:
                level.ambient.synchronize()

    def _inspect(
        self,
        level: _Level,
        watches: tuple[Watched[Any], ...],
        event: Event,
        kwargs: Mapping[str, Any],
        mode: Any,
    ) -> None:
        if not watches:
            return
        moment = now(mode.tracer.graph)
        call = ObservedCall(event.function, event.args, kwargs, bool(mode.pre_dispatch), moment)
        try:
            for watched in watches:
                judged = watched.run(watched.check, call)
                if isinstance(judged, Suspicion):
                    where = judged.finding.location or current_location()
                    suspected = _Suspected(judged, watched, moment, where, allowances())
                    level.suspected.append(suspected)
                elif judged is not None:
                    refusal = self._act(judged, watched, allowances())
                    if refusal is not None:
                        raise refusal
        except HopyardError as refusal:
            self.refusal = self.refusal or refusal
            raise

    def _allowed(self, allowance: Allowance, begins: bool) -> None:
        """Note where in the recording an allowance begins or ends."""
        mode = current_proxy_mode()
        if mode is None:
            return
        moment = now(mode.tracer.graph)
        spans = self._levels[-1].spans
        if begins:
            try:
                check_allowance(allowance.codes, self._watched.hazards)
            except HopyardError as refusal:
                self.refusal = self.refusal or refusal
                raise
            spans.append(_Span(allowance, moment))
            return
        for span in reversed(spans):
            if span.allowance is allowance and span.end is None:
                span.end = moment
                return

    def _judge(self, level: _Level) -> None:
        """Judge what only the whole recording tells.

        Raises:
            SafeguardError: A finding refuses the capture; others are in the error's notes.
            PluginError: A safeguard failed.
        """
        refusals = []
        for finding, watched, allowed in [*self._of_recording(level), *self._of_states(level)]:
            refusal = self._act(finding, watched, allowed)
            if refusal is not None:
                refusals.append(refusal)
        if not refusals:
            return
        first, *others = refusals
        first.findings = tuple(each.finding for each in refusals)
        for other in others:
            first.add_note(f"also found: {other}")
        raise first

    def _of_recording(self, level: _Level) -> Iterator[_Judged]:
        if level.graph is None:
            return
        result = None if self._levels else self.result
        constants = frozenset() if self._levels else self.constants
        recording = Recording(level.graph, result, constants, level.root)
        for event in level.ambient.finished():
            for watched in self._functions.get(event.function, ()):
                moment = now(level.graph)
                call = ObservedCall(event.function, event.args, {}, False, moment)
                watched.run(watched.check, call)
        for each in level.suspected:
            # A capture inside of the captured program has a graph of its own.
            own = each.moment.graph is level.graph
            seen = recording if own else Recording(each.moment.graph)
            finding = each.watched.run(each.suspicion.confirm, seen)
            if finding is not None:
                where = finding.location or each.location
                yield dataclasses.replace(finding, location=where), each.watched, each.allowed
        for node in level.graph.nodes if self._operators else ():
            for judge in self._operators.get(id(node.target), ()):
                finding = judge.run(judge.check, node, recording)
                if finding is not None:
                    yield _at(finding, node), judge, self._allowed_at(level, recording, node)
        for review in self._watched.reviews:
            for finding in review.run(_reviewed, review.check, recording):
                yield finding, review, level.allowed

    def _of_states(self, level: _Level) -> Iterator[_Judged]:
        if self._levels:
            return
        for watched, before in zip(self._watched.states, self._before, strict=True):
            after = watched.run(watched.check.read)
            finding = watched.run(watched.check.check, before, after)
            if finding is not None:
                yield finding, watched, (*level.allowed, *(each.allowance for each in level.spans))

    def _allowed_at(self, level: _Level, recording: Recording, node: Node) -> tuple[Allowance, ...]:
        inside = [
            span.allowance
            for span in level.spans
            if node in recording.between(span.start, span.end)
        ]
        return (*level.allowed, *inside)

    def _act(
        self, finding: Finding, watched: Watched[Any], allowed: Sequence[Allowance]
    ) -> SafeguardError | None:
        """Complete and keep a finding; return an error if it refuses the capture."""
        safeguard = watched.safeguard
        declared = {hazard.code: hazard for hazard in safeguard.hazards}
        hazard = declared.get(finding.code)
        if hazard is None:
            raise PluginError(
                f"reported {finding.code}, which it did not declare",
                hint=f"declared hazards: {', '.join(declared)}",
                plugin=watched.provider,
                stage=safeguard.name,
            )
        reason = next((each.reason for each in reversed(allowed) if finding.code in each.codes), "")
        policy = self._policies.get(finding.code, hazard.severity.policy)
        if reason and policy is not Policy.IGNORE:
            policy = Policy.RECORD
        complete = dataclasses.replace(
            finding,
            remedy=finding.remedy or hazard.remedy,
            location=finding.location or current_location(),
            safeguard=safeguard.name,
            severity=hazard.severity,
            policy=policy,
            allowed=reason,
        )
        if policy is Policy.ERROR:
            return SafeguardError(complete, plugin=watched.provider)
        if policy is Policy.IGNORE or complete in self._findings:
            return None
        self._findings.append(complete)
        if policy is Policy.WARN:
            _warn(complete)
        return None


def _reviewed(review: Review, recording: Recording) -> list[Finding]:
    # A review may be a generator, whose errors come when it is run.
    return list(review(recording))


def _at(finding: Finding, node: Node) -> Finding:
    return dataclasses.replace(finding, location=finding.location or node_location(node))


def _warn(finding: Finding) -> None:
    where = finding.location
    if where is None:
        warnings.warn(str(finding), stacklevel=2)
    else:
        warnings.warn_explicit(str(finding), UserWarning, where.file, where.line)
