"""Capturing with a session: modes around it, observers of it, threads in it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

import hopyard
from hopyard.errors import CaptureError, PluginError, UnknownNameError
from hopyard_hookspecs import CaptureRequest, Mode, hookimpl


class Modes:
    """A plugin of modes that write down when they are entered and left."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.requests: list[CaptureRequest] = []
        self.fails = ""

    def factory(self, name: str) -> Callable[[CaptureRequest], Any]:
        @contextmanager
        def entered(request: CaptureRequest) -> Iterator[None]:
            self.log.append(f"+{name}")
            try:
                yield
            finally:
                self.log.append(f"-{name}")
                if self.fails == f"{name} leaving":
                    raise ValueError("on leaving")

        def make(request: CaptureRequest) -> Any:
            self.requests.append(request)
            if self.fails == f"{name} making":
                raise ValueError("on making")
            if self.fails == f"{name} nothing":
                return None
            return entered(request)

        return make

    @hookimpl
    def hopyard_register_modes(self) -> Iterator[Mode]:
        yield Mode("late", factory=self.factory("late"), order=10, default=True)
        yield Mode("early", factory=self.factory("early"), order=-10, default=True)
        yield Mode("b-asked", factory=self.factory("b-asked"))
        yield Mode("a-asked", factory=self.factory("a-asked"))


@pytest.fixture
def modes() -> Modes:
    return Modes()


@pytest.fixture
def session(modes: Modes) -> hopyard.Session:
    return hopyard.Session(discover=False, plugins=[modes])


def stacks() -> list[Any]:
    return [
        _get_current_dispatch_mode_stack(),
        _get_current_function_mode_stack(),
        torch.is_grad_enabled(),
        torch.is_autocast_cache_enabled(),
    ]


@pytest.mark.parametrize(
    ("asked", "order"),
    [
        ((), "early late"),
        (("b-asked",), "early b-asked late"),
        (("b-asked", "a-asked"), "early a-asked b-asked late"),
        (("late", "a-asked", "a-asked"), "early a-asked late"),
    ],
)
def test_modes_are_entered_in_their_order(
    modes: Modes, session: hopyard.Session, asked: tuple[str, ...], order: str
) -> None:
    inside: list[str] = []
    session.capture(lambda a: inside.extend(modes.log) or a + 1, (torch.ones(2),), modes=asked)
    names = order.split()
    entered = [f"+{name}" for name in names]
    assert inside == entered
    assert modes.log == [*entered, *(f"-{name}" for name in reversed(names))]
    assert len({id(request) for request in modes.requests}) == 1


def test_modes_are_left_when_the_program_fails(modes: Modes, session: hopyard.Session) -> None:
    before = stacks()
    with pytest.raises(CaptureError):
        session.capture(lambda a: a.nothing, (torch.ones(2),))
    assert modes.log == ["+early", "+late", "-late", "-early"]
    assert stacks() == before


@pytest.mark.parametrize("fails", ["late making", "late nothing", "late leaving", "early leaving"])
def test_a_mode_that_fails_leaves_everything_as_it_was(
    modes: Modes, session: hopyard.Session, fails: str
) -> None:
    modes.fails = fails
    before = stacks()
    module = nn.BatchNorm1d(3)
    with pytest.raises(PluginError) as raised:
        session.capture(module, (torch.ones(2, 3),))
    assert stacks() == before
    assert module.num_batches_tracked.item() == 0
    assert modes.log.count("+early") == modes.log.count("-early") == 1
    assert raised.value.plugin == session.plugins.info("modes").provider
    assert raised.value.stage == fails.split()[0]
    modes.fails = ""
    assert session.capture(module, (torch.ones(2, 3),)).graph


def test_a_mode_that_fails_on_leaving_does_not_hide_a_failure(
    modes: Modes, session: hopyard.Session
) -> None:
    modes.fails = "late leaving"
    with pytest.raises(CaptureError, match="nothing") as raised:
        session.capture(lambda a: a.nothing, (torch.ones(2),))
    assert "on leaving" in raised.value.__cause__.__notes__[0]
    modes.fails = "early leaving"
    with pytest.raises(KeyboardInterrupt):
        session.capture(lambda a: (_ for _ in ()).throw(KeyboardInterrupt), (torch.ones(2),))


def test_a_mode_cannot_swallow_a_failure() -> None:
    class Swallowing:
        @hookimpl
        def hopyard_register_modes(self) -> Iterator[Mode]:
            yield Mode("all", factory=lambda request: suppress(BaseException), default=True)

    session = hopyard.Session(discover=False, plugins=[Swallowing()])
    with pytest.raises(CaptureError, match="nothing"):
        session.capture(lambda a: a.nothing, (torch.ones(2),))


def test_an_unknown_mode_is_refused_before_anything_runs(
    modes: Modes, session: hopyard.Session
) -> None:
    ran: list[Tensor] = []
    with pytest.raises(UnknownNameError):
        session.capture(ran.append, (torch.ones(2),), modes=["a-aksed"])
    assert (ran, modes.log) == ([], [])


def test_dispatch_and_function_modes_see_the_program(modes: Modes) -> None:
    seen: list[str] = []

    class Dispatch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    class Function(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func.__name__)
            return func(*args, **(kwargs or {}))

    class Seeing:
        @hookimpl
        def hopyard_register_modes(self) -> Iterator[Mode]:
            yield Mode("dispatch", factory=lambda request: Dispatch())
            yield Mode("function", factory=lambda request: Function())

    session = hopyard.Session(discover=False, plugins=[Seeing()])
    program = session.capture(
        lambda a: torch.sin(a), (torch.ones(2),), modes=["dispatch", "function"]
    )
    assert seen == ["sin", "aten.sin.default"]
    assert [node.op for node in program.graph.nodes] == ["placeholder", "call_function", "output"]


class Observers:
    def __init__(self, fails: tuple[str, ...] = ()) -> None:
        self.fails = fails
        self.calls: list[tuple[Any, ...]] = []

    @hookimpl
    def hopyard_before_capture(self, request: CaptureRequest) -> None:
        self.calls.append(("before", request))
        if "before" in self.fails:
            raise ValueError("before")

    @hookimpl
    def hopyard_after_capture(
        self,
        request: CaptureRequest,
        graph_module: GraphModule | None,
        error: BaseException | None,
    ) -> None:
        self.calls.append(("after", request, graph_module, error))
        if "after" in self.fails:
            raise ValueError("after")


def test_observers_are_called_once_with_what_happened() -> None:
    observers = Observers()
    session = hopyard.Session(discover=False, plugins=[observers])
    program = session.capture(torch.sin, (torch.ones(2),))
    (first, before), (second, after, graph_module, error) = observers.calls
    assert (first, second) == ("before", "after")
    assert before is after
    assert before.target is torch.sin
    assert graph_module is program.graph_module
    assert error is None


@pytest.mark.parametrize(
    ("target", "error"),
    [
        (lambda a: a.nothing, CaptureError),
        (lambda a: (_ for _ in ()).throw(KeyboardInterrupt), KeyboardInterrupt),
        (lambda a: (_ for _ in ()).throw(SystemExit(3)), SystemExit),
    ],
)
def test_observers_are_told_of_a_failure(target: Any, error: type[BaseException]) -> None:
    observers = Observers()
    session = hopyard.Session(discover=False, plugins=[observers])
    with pytest.raises(error) as raised:
        session.capture(target, (torch.ones(2),))
    (_, request), after = observers.calls
    assert after == ("after", request, None, raised.value)


def test_an_observer_that_fails_does_not_hide_the_failure() -> None:
    class Others(Observers):
        pass

    first, second = Observers(("after",)), Others()
    session = hopyard.Session(discover=False, plugins=[first, second])
    with pytest.raises(CaptureError, match="nothing") as raised:
        session.capture(lambda a: a.nothing, (torch.ones(2),))
    (note,) = raised.value.__notes__
    assert "ValueError" in note
    assert [call[0] for call in second.calls] == ["before", "after"]


def test_an_observer_that_fails_after_a_success_is_reported_as_that() -> None:
    observers = Observers(("after",))
    session = hopyard.Session(discover=False, plugins=[observers])
    with pytest.raises(PluginError) as raised:
        session.capture(torch.sin, (torch.ones(2),))
    assert raised.value.stage == "hopyard_after_capture"
    assert [call[0] for call in observers.calls] == ["before", "after"]


def test_an_observer_that_fails_before_stops_the_capture() -> None:
    observers = Observers(("before",))
    session = hopyard.Session(discover=False, plugins=[observers])
    ran: list[Tensor] = []
    with pytest.raises(PluginError) as raised:
        session.capture(ran.append, (torch.ones(2),))
    assert raised.value.stage == "hopyard_before_capture"
    assert ran == []
    assert [call[0] for call in observers.calls] == ["before"]


def test_operators_are_decomposed_as_asked() -> None:
    session = hopyard.Session(discover=False)
    given = torch.randn(4, 3)
    layer = nn.LayerNorm(3)

    def targets(program: hopyard.Program) -> set[str]:
        return {str(node.target) for node in program.graph.nodes}

    def own(a: Tensor) -> Tensor:
        return a * torch.sigmoid(a)

    whole = session.capture(layer, (given,))
    core = session.capture(layer, (given,), decompositions=torch.export.default_decompositions())
    mine = session.capture(
        torch.nn.functional.silu, (given,), decompositions={torch.ops.aten.silu.default: own}
    )
    assert any("native_layer_norm" in target for target in targets(whole))
    assert not any("layer_norm.default" in target for target in targets(core) - targets(whole))
    assert "aten.sigmoid.default" in targets(mine)
    assert "aten.silu.default" not in targets(mine)
    for program, eager in ((whole, layer), (core, layer), (mine, torch.nn.functional.silu)):
        torch.testing.assert_close(program(given), eager(given))


def test_threads_capture_with_one_session() -> None:
    session = hopyard.Session()
    modules: list[tuple[nn.Module, Tensor]] = [
        (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(5, 3)),
        (nn.LSTM(3, 4), torch.randn(2, 5, 3)),
        (nn.BatchNorm1d(3).eval(), torch.randn(5, 3)),
        (nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0), torch.randn(2, 5, 4)),
    ]
    barrier = threading.Barrier(len(modules))
    failures: list[BaseException] = []

    def work(module: nn.Module, given: Tensor, grad: bool) -> None:
        try:
            torch.set_grad_enabled(grad)
            barrier.wait(timeout=30)
            graphs = set()
            for _ in range(4):
                program = session.capture(module, (given,))
                graphs.add(str(program.graph))
                torch.testing.assert_close(program(given), module(given))
                assert torch.is_grad_enabled() is grad
            assert len(graphs) == 1
            assert _get_current_dispatch_mode_stack() == []
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [
        threading.Thread(target=work, args=(*each, index % 2 == 0))
        for index, each in enumerate(modules)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_capture_inside_a_capture_is_its_own() -> None:
    session = hopyard.Session()
    inner: list[hopyard.Program] = []

    def outer(a: Tensor) -> Tensor:
        inner.append(session.capture(torch.cos, (torch.ones(3),)))
        return torch.sin(a)

    program = session.capture(outer, (torch.ones(2),))
    assert "cos" not in str(program.graph)
    assert "sin" not in str(inner[0].graph)
    torch.testing.assert_close(inner[0](torch.ones(3)), torch.ones(3).cos())


def test_an_error_names_the_line_of_the_user() -> None:
    def broken(a: Tensor) -> Tensor:
        b = a + 1
        return b @ torch.ones(7)

    with pytest.raises(CaptureError) as raised:
        hopyard.Session(discover=False).capture(broken, (torch.ones(2),))
    assert raised.value.location.file == __file__
    assert raised.value.location.line == broken.__code__.co_firstlineno + 2
    assert raised.value.partial_graph is not None
    assert "add" in str(raised.value.partial_graph)
    assert isinstance(raised.value.__cause__, RuntimeError)
