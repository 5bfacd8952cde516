"""Telling observers."""

from __future__ import annotations

import pytest

from hopyard.errors import PluginError, PluginLoadError, UnknownNameError, UsageError
from hopyard.plugins import PluginManager, PluginStatus
from hopyard_hookspecs import CaptureRequest, Provider, hookimpl

REQUEST = CaptureRequest(len, ())


def finished(manager: PluginManager, error: BaseException | None = None) -> None:
    manager.notify("hopyard_after_capture", request=REQUEST, graph_module="graph", error=error)


def observer(seen: list[object], slug: str, raises: BaseException | None = None) -> object:
    class Observer:
        @hookimpl
        def hopyard_before_capture(self, request):
            seen.append(slug)
            if raises:
                raise raises

    return Observer()


def manager_of(*slugs: str, seen: list[object], **raising: BaseException) -> PluginManager:
    manager = PluginManager(discover=False)
    for slug in slugs:
        plugin = observer(seen, slug, raising.get(slug))
        manager.register(plugin, slug, distribution=f"dist-{slug}", version="1")
    return manager


def test_each_observer_gets_the_arguments_it_takes() -> None:
    seen: list[object] = []

    class All:
        @hookimpl
        def hopyard_after_capture(self, request, graph_module, error):
            seen.append(("all", request, graph_module, error))

    class InAnotherOrder:
        @hookimpl
        def hopyard_after_capture(self, error, request):
            seen.append(("two", request, error))

    class Nothing:
        @hookimpl
        def hopyard_after_capture(self):
            seen.append("none")

    class WithDefault:
        @hookimpl
        def hopyard_after_capture(self, request, error=None, mine=7):
            seen.append(("default", request, error, mine))

    manager = PluginManager(discover=False)
    for slug, plugin in zip(
        "abcd", (All(), InAnotherOrder(), Nothing(), WithDefault()), strict=True
    ):
        manager.register(plugin, slug)
    failure = ValueError()
    finished(manager, failure)
    assert seen == [
        ("all", REQUEST, "graph", failure),
        ("two", REQUEST, failure),
        "none",
        ("default", REQUEST, failure, 7),
    ]


def test_observers_are_called_by_slug_unless_they_say_otherwise() -> None:
    seen: list[object] = []
    manager = manager_of("cow", "ant", "bee", seen=seen)

    class First:
        @hookimpl(tryfirst=True)
        def hopyard_before_capture(self):
            seen.append("first")

    class Last:
        @hookimpl(trylast=True)
        def hopyard_before_capture(self):
            seen.append("last")

    manager.register(Last(), "aaa")
    manager.register(First(), "zzz")
    manager.notify("hopyard_before_capture", request=REQUEST)
    assert seen == ["first", "ant", "bee", "cow", "last"]


@pytest.mark.parametrize("cause", [ValueError("no"), SystemExit(1), PluginLoadError("nested")])
def test_a_failure_names_plugin_and_hook_and_keeps_the_cause(cause: BaseException) -> None:
    manager = manager_of("bee", seen=[], bee=cause)
    with pytest.raises(PluginError) as raised:
        manager.notify("hopyard_before_capture", request=REQUEST)
    assert raised.value.plugin == Provider("bee", "dist-bee", "1")
    assert raised.value.stage == "hopyard_before_capture"
    assert raised.value.__cause__ is cause


def test_every_observer_is_called_although_one_raises() -> None:
    seen: list[object] = []
    manager = manager_of("ant", "bee", "cow", seen=seen, ant=ValueError("1"), bee=ValueError("2"))
    with pytest.raises(PluginError) as raised:
        manager.notify("hopyard_before_capture", request=REQUEST)
    assert seen == ["ant", "bee", "cow"]
    assert raised.value.plugin.plugin == "ant"
    (note,) = raised.value.__notes__
    assert note.startswith("bee [dist-bee 1]: ")


def test_an_observer_that_raised_is_called_again_next_time() -> None:
    seen: list[object] = []
    manager = manager_of("ant", seen=seen, ant=ValueError())
    for _ in range(2):
        with pytest.raises(PluginError):
            manager.notify("hopyard_before_capture", request=REQUEST)
    assert seen == ["ant", "ant"]
    assert manager.info("ant").status is PluginStatus.ACTIVE


def test_an_interrupt_passes_at_once() -> None:
    seen: list[object] = []
    manager = manager_of("ant", "bee", seen=seen, ant=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        manager.notify("hopyard_before_capture", request=REQUEST)
    assert seen == ["ant"]


def test_a_hook_without_observers_is_no_event() -> None:
    PluginManager(discover=False).notify("hopyard_before_capture", request=REQUEST)


@pytest.mark.parametrize("arguments", [{}, {"requests": REQUEST}, {"request": 1, "more": 2}])
def test_the_caller_must_give_what_the_hook_has(arguments) -> None:
    with pytest.raises(UsageError, match="request"):
        PluginManager(discover=False).notify("hopyard_before_capture", **arguments)


def test_an_unknown_hook_is_answered_with_the_closest() -> None:
    with pytest.raises(UnknownNameError) as raised:
        PluginManager(discover=False).notify("hopyard_before_captur")
    assert raised.value.closest == "hopyard_before_capture"
