"""Collecting what plugins register."""

from __future__ import annotations

import pytest

from hopyard.errors import DuplicateNameError, PluginLoadError, UnknownNameError
from hopyard.plugins import PluginManager, PluginStatus, Registered
from hopyard_hookspecs import Mode, Pass, Provider, hookimpl


def a_pass(name: str) -> Pass:
    return Pass(name, implementation="m:x")


class Registers:
    """A plugin whose hook calls a function."""

    def __init__(self, function) -> None:
        self.function = function

    @hookimpl
    def hopyard_register_passes(self):
        return self.function()

    @hookimpl
    def hopyard_register_modes(self):
        return [Mode("still", factory="m:x")]


def manager_of(strict: bool = True, **functions) -> PluginManager:
    manager = PluginManager(discover=False, strict=strict)
    for slug, function in functions.items():
        manager.register(Registers(function), slug, distribution=f"dist-{slug}", version="1")
    return manager


def passes(manager: PluginManager) -> dict[str, Registered[Pass]]:
    return manager.collect("pass", "hopyard_register_passes", lambda each: each.name, Pass)


def two_then_raise():
    yield a_pass("one")
    yield a_pass("two")
    raise ValueError("three")


def raise_at_once():
    raise ValueError("none")


def exit_at_once():
    raise SystemExit(1)


AT_FAULT = [
    pytest.param(two_then_raise, ValueError, "three", id="raises after two"),
    pytest.param(raise_at_once, ValueError, "none", id="raises"),
    pytest.param(exit_at_once, SystemExit, "SystemExit", id="exits"),
    pytest.param(lambda: None, type(None), "None", id="returns nothing"),
    pytest.param(lambda: a_pass("x"), type(None), "a Pass", id="returns one value"),
    pytest.param(lambda: "one", type(None), "a str instead of a Pass", id="returns text"),
    pytest.param(lambda: [a_pass("x"), 3], type(None), "a int instead of a Pass", id="wrong type"),
    pytest.param(lambda: [Pass], type(None), "a type instead of a Pass", id="class"),
    pytest.param(lambda: [a_pass("x"), a_pass("x")], type(None), "'x' twice", id="twice"),
    pytest.param(lambda: [Pass("No Good", "m:x")], ValueError, "No Good", id="invalid value"),
]


@pytest.mark.parametrize(("function", "cause", "word"), AT_FAULT)
def test_a_strict_manager_names_the_plugin_the_hook_and_the_cause(function, cause, word) -> None:
    manager = manager_of(good=lambda: [a_pass("fine")], bad=function)
    with pytest.raises(PluginLoadError) as raised:
        passes(manager)
    assert raised.value.plugin == Provider("bad", "dist-bad", "1")
    assert raised.value.stage == "hopyard_register_passes"
    assert isinstance(raised.value.__cause__, cause)
    assert word in raised.value.message


@pytest.mark.parametrize(("function", "cause", "word"), AT_FAULT)
def test_a_lenient_manager_leaves_out_all_of_that_plugin(function, cause, word) -> None:
    manager = manager_of(strict=False, good=lambda: [a_pass("fine")], bad=function)
    assert list(passes(manager)) == ["fine"]
    info = manager.info("bad")
    assert info.status is PluginStatus.FAILED
    assert word in str(info.error)
    assert info.hooks == ("hopyard_register_modes", "hopyard_register_passes")
    modes = manager.collect("mode", "hopyard_register_modes", lambda each: each.name, Mode)
    assert modes["still"].provider.plugin == "good"


def test_an_interrupt_passes() -> None:
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        passes(manager_of(strict=False, bad=interrupt))


def test_a_plugin_that_failed_half_way_claims_no_name() -> None:
    manager = manager_of(strict=False, bad=two_then_raise, good=lambda: [a_pass("one")])
    assert passes(manager)["one"].provider.plugin == "good"
    assert manager.conflict("pass", "one") is None


def test_plugins_are_asked_once_and_in_the_order_of_slugs() -> None:
    asked: list[str] = []
    manager = manager_of(
        cow=lambda: asked.append("cow") or [a_pass("moo")],
        ant=lambda: asked.append("ant") or (a_pass(name) for name in ("dig", "bite")),
        bee=lambda: asked.append("bee") or (),
    )
    assert list(passes(manager)) == ["dig", "bite", "moo"]
    assert asked == ["ant", "bee", "cow"]


def test_a_plugin_may_implement_a_hook_by_several_functions() -> None:
    class Several:
        @hookimpl
        def hopyard_register_passes(self):
            return [a_pass("one")]

        @hookimpl(specname="hopyard_register_passes")
        def more_passes(self):
            return [a_pass("two")]

    manager = PluginManager(discover=False)
    assert manager.register(Several(), "several").hooks == ("hopyard_register_passes",)
    assert sorted(passes(manager)) == ["one", "two"]


def test_a_duplicate_name_is_raised_with_every_claimant() -> None:
    same = {slug: lambda: [a_pass("same")] for slug in ("cow", "ant", "bee")}
    with pytest.raises(DuplicateNameError) as raised:
        passes(manager_of(**same))
    error = raised.value
    assert (error.kind, error.name, error.stage) == ("pass", "same", "hopyard_register_passes")
    assert [str(each) for each in error.claimants] == [
        "ant [dist-ant 1]",
        "bee [dist-bee 1]",
        "cow [dist-cow 1]",
    ]


def test_a_lenient_manager_gives_a_duplicate_name_to_nobody() -> None:
    manager = manager_of(
        strict=False,
        ant=lambda: [a_pass("same"), a_pass("dig")],
        bee=lambda: [a_pass("hum"), a_pass("same")],
        cow=lambda: [a_pass("moo")],
    )
    assert sorted(passes(manager)) == ["dig", "hum", "moo"]
    conflict = manager.conflict("pass", "same")
    assert [each.plugin for each in conflict.claimants] == ["ant", "bee"]
    assert {info.provider.plugin: info.error for info in manager.infos} == {
        "ant": conflict,
        "bee": conflict,
        "cow": None,
    }
    assert {info.status for info in manager.infos} == {PluginStatus.ACTIVE}
    assert manager.conflict("mode", "same") is None


def test_an_unknown_hook_is_answered_with_the_closest() -> None:
    with pytest.raises(UnknownNameError) as raised:
        PluginManager(discover=False).collect("pass", "hopyard_register_pases", str, Pass)
    assert raised.value.closest == "hopyard_register_passes"
