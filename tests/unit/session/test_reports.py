"""What modes report about a capture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

import hopyard
from hopyard.errors import CaptureError, PluginError
from hopyard_hookspecs import Mode, Report, hookimpl

ONES = torch.ones(3, 3)


class Watch(TorchDispatchMode):
    """Writes down what it sees; reports it as a graph's number of nodes and a list of names."""

    supports_higher_order_operators = True

    def __init__(self, request: Any) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.seen.append(str(function))
        return function(*args, **(kwargs or {}))

    def report(self, graph_module: GraphModule) -> Report:
        assert _get_current_dispatch_mode_stack() == []
        names = [node.name for node in graph_module.graph.nodes]
        return Report(f"{len(names)} nodes", tuple(self.seen), {"names": names})


class Plugin:
    def __init__(self, *factories: Callable[[Any], Any]) -> None:
        self.factories = factories

    @hookimpl
    def hopyard_register_modes(self) -> Iterator[Mode]:
        for factory in self.factories:
            name = factory.__name__.lower()
            yield Mode(name, factory=factory, default=True, reports=True)


def session_of(*factories: Callable[[Any], Any]) -> hopyard.Session:
    return hopyard.Session(discover=False, plugins=[Plugin(*factories)])


def test_what_a_mode_saw_is_kept_with_the_program() -> None:
    program = session_of(Watch).capture(lambda a: a.sin().cos(), (ONES,))
    assert program.reports == {
        "watch": Report(
            "4 nodes",
            ("aten.sin.default", "aten.cos.default"),
            {"names": [node.name for node in program.graph.nodes]},
        )
    }


@pytest.fixture
def forgetful_compiler() -> Iterator[None]:
    """Let Dynamo forget that it could not compile under a mode: it would never try again."""
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("forgetful_compiler")
def test_each_region_has_a_mode_of_its_own_and_the_outermost_reports() -> None:
    made: list[Watch] = []

    def watch(request: Any) -> Watch:
        made.append(Watch(request))
        return made[-1]

    def program(a: Tensor) -> Tensor:
        return torch.cond(a.sum() > 0, lambda x: (x.sin(),), lambda x: (x.cos(),), (a,))[0].tan()

    report = session_of(watch).capture(program, (ONES,)).reports["watch"]
    assert [mode.seen for mode in made] == [
        ["aten.sum.default", "aten.gt.Scalar", "cond", "aten.tan.default"],
        ["aten.sin.default"],
        ["aten.cos.default"],
    ]
    assert list(report.lines) == made[0].seen


class Raises(Watch):
    def report(self, graph_module: GraphModule) -> Report:
        raise ValueError("nothing to say")


class Mistaken(Watch):
    def report(self, graph_module: GraphModule) -> Any:
        return "four nodes"


class Silent:
    def __init__(self, request: Any) -> None:
        pass

    def __enter__(self) -> None: ...

    def __exit__(self, *raised: object) -> None: ...


@pytest.mark.parametrize(
    ("factory", "why"),
    [
        (Raises, "ValueError: nothing to say"),
        (Mistaken, "its report is a str"),
        (Silent, "has no attribute 'report'"),
    ],
)
def test_a_report_that_fails_is_the_plugin_s_failure(factory: type, why: str) -> None:
    with pytest.raises(PluginError, match=why) as raised:
        session_of(Watch, factory).capture(torch.sin, (ONES,))
    assert raised.value.stage == factory.__name__.lower()
    assert _get_current_dispatch_mode_stack() == []


def test_nothing_is_reported_of_a_capture_that_fails() -> None:
    def fails(a: Tensor) -> Tensor:
        raise ZeroDivisionError("the program's own")

    with pytest.raises(CaptureError, match="the program's own"):
        session_of(Raises).capture(fails, (ONES,))
