"""Each hook is called when its documentation says so, exactly once."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
import torch
from torch.fx import GraphModule

import hopyard
import hopyard_hookspecs
from hopyard_hookspecs import (
    Backend,
    CaptureRequest,
    Decompositions,
    Hazard,
    Hop,
    Mode,
    Pass,
    PassRecord,
    PassResult,
    PassStep,
    Safeguard,
    TraceRule,
    Watch,
    hookimpl,
)


@dataclass(frozen=True)
class Idle:
    """A pass that changes nothing."""

    def __call__(self, graph_module: GraphModule) -> PassResult:
        return PassResult(graph_module, modified=False)


class EveryHook:
    """A plugin that implements every hook and remembers in which order they are called."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.arguments: dict[str, tuple[object, ...]] = {}

    def note(self, *arguments: object) -> None:
        name = inspect.stack()[1].function
        self.calls.append(name)
        self.arguments[name] = arguments

    @hookimpl
    def hopyard_register_modes(self) -> Iterable[Mode]:
        self.note()
        return [Mode("every-mode", factory=lambda request: torch.inference_mode(False))]

    @hookimpl
    def hopyard_register_hops(self) -> Iterable[Hop]:
        self.note()
        return [Hop("every_hook__identity")]

    @hookimpl
    def hopyard_register_trace_rules(self) -> Iterable[TraceRule]:
        self.note()
        return [TraceRule("every_rule", rule=lambda tracer, operator, args, kwargs: None)]

    @hookimpl
    def hopyard_register_decompositions(self) -> Iterable[Decompositions]:
        self.note()
        return [Decompositions("every-table", table=dict)]

    @hookimpl
    def hopyard_register_safeguards(self) -> Iterable[Safeguard]:
        self.note()
        hazard = Hazard("EH001", "nothing", remedy="nothing")
        return [Safeguard("every-safeguard", (hazard,), watch=Watch)]

    @hookimpl
    def hopyard_register_passes(self) -> Iterable[Pass]:
        self.note()
        return [Pass("every-pass", Idle), Pass("every-failure", lambda graph_module: None)]

    @hookimpl
    def hopyard_register_backends(self) -> Iterable[Backend]:
        self.note()
        return [Backend("every-backend", implementation=object)]

    @hookimpl
    def hopyard_before_capture(self, request: CaptureRequest) -> None:
        self.note(request)

    @hookimpl
    def hopyard_after_capture(
        self,
        request: CaptureRequest,
        graph_module: GraphModule | None,
        error: BaseException | None,
    ) -> None:
        self.note(request, graph_module, error)

    @hookimpl
    def hopyard_before_pass(self, step: PassStep, graph_module: GraphModule) -> None:
        self.note(step, graph_module)

    @hookimpl
    def hopyard_after_pass(self, record: PassRecord, graph_module: GraphModule) -> None:
        self.note(record, graph_module)

    @hookimpl
    def hopyard_after_failed_pass(
        self, step: PassStep, graph_module: GraphModule, error: BaseException
    ) -> None:
        self.note(step, graph_module, error)


def hooks(prefix: str) -> set[str]:
    return {
        name
        for module in hopyard_hookspecs.specifications()
        for name in vars(module)
        if name.startswith(prefix)
    }


@pytest.fixture
def plugin() -> EveryHook:
    return EveryHook()


@pytest.fixture
def session(plugin: EveryHook) -> hopyard.Session:
    return hopyard.Session(plugins=[plugin], discover=False)


def test_the_plugin_implements_all_there_are() -> None:
    implemented = {name for name in vars(EveryHook) if name.startswith("hopyard_")}
    assert implemented == hooks("hopyard_")


def test_registrations_are_collected_once_when_a_session_is_made(
    plugin: EveryHook, session: hopyard.Session
) -> None:
    assert sorted(plugin.calls) == sorted(hooks("hopyard_register_"))
    kinds = ("modes", "hops", "trace_rules", "decompositions", "safeguards", "passes", "backends")
    assert all(any(name.startswith("every") for name in getattr(session, kind)) for kind in kinds)


def test_a_capture_is_observed_from_before_its_modes_to_after_them(
    plugin: EveryHook, session: hopyard.Session
) -> None:
    plugin.calls.clear()

    def target(x: torch.Tensor) -> torch.Tensor:
        plugin.calls.append("target")
        return x + 1

    program = session.capture(target, (torch.ones(2),))
    assert plugin.calls == ["hopyard_before_capture", "target", "hopyard_after_capture"]
    (request,) = plugin.arguments["hopyard_before_capture"]
    assert request.target is target
    seen, graph_module, error = plugin.arguments["hopyard_after_capture"]
    assert seen is request
    assert graph_module is program.graph_module
    assert error is None


def test_a_capture_that_fails_is_observed_with_its_error(
    plugin: EveryHook, session: hopyard.Session
) -> None:
    def target(x: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("the user's own")

    with pytest.raises(hopyard.errors.CaptureError) as caught:
        session.capture(target, (torch.ones(2),))
    _, graph_module, error = plugin.arguments["hopyard_after_capture"]
    assert graph_module is None
    assert error is caught.value


def test_each_pass_is_observed_with_the_graph_it_gets_and_the_graph_it_gave(
    plugin: EveryHook, session: hopyard.Session
) -> None:
    program = session.capture(lambda x: x + 1, (torch.ones(2),))
    plugin.calls.clear()
    session.run("every-pass,every-pass", program)
    assert plugin.calls == ["hopyard_before_pass", "hopyard_after_pass"] * 2
    step, _ = plugin.arguments["hopyard_before_pass"]
    record, graph_module = plugin.arguments["hopyard_after_pass"]
    assert (step.index, step.name) == (1, "every-pass")
    assert record.step == step
    assert record.nodes_after == len(graph_module.graph.nodes)


def test_a_pass_that_fails_is_observed_with_what_it_left_and_its_error(
    plugin: EveryHook, session: hopyard.Session
) -> None:
    program = session.capture(lambda x: x + 1, (torch.ones(2),))
    plugin.calls.clear()
    with pytest.raises(hopyard.errors.PassError) as caught:
        session.run("every-failure", program)
    assert plugin.calls == ["hopyard_before_pass", "hopyard_after_failed_pass"]
    _, given = plugin.arguments["hopyard_before_pass"]
    step, graph_module, error = plugin.arguments["hopyard_after_failed_pass"]
    assert step.name == "every-failure"
    assert graph_module is given
    assert error is caught.value
