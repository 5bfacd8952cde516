"""Managers over installed and given plugins."""

from __future__ import annotations

import dataclasses
import sys
import threading

import pytest

from hopyard.errors import (
    DuplicateNameError,
    IncompatibleError,
    PluginLoadError,
    UnknownNameError,
)
from hopyard.plugins import UNPACKAGED, GivenPlugin, PluginManager, PluginStatus, Registered
from hopyard_hookspecs import Pass, Provider, hookimpl

YIELDS = """
@hookimpl
def hopyard_register_passes():
    yield Pass("{0}", implementation="m:x")
"""


class Passes:
    """A plugin that registers passes of the given names."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.calls = 0

    @hookimpl
    def hopyard_register_passes(self):
        self.calls += 1
        return [Pass(name, implementation="m:x") for name in self.names]


def passes(manager: PluginManager) -> dict[str, Registered[Pass]]:
    return manager.collect("pass", "hopyard_register_passes", lambda each: each.name, Pass)


def statuses(manager: PluginManager) -> dict[str, str]:
    return {info.provider.plugin: str(info.status) for info in manager.infos}


def test_installed_plugins_are_found_loaded_and_asked(site) -> None:
    site.plugin("bee", YIELDS.format("hum"), version="2.0")
    site.plugin("ant", YIELDS.format("dig"))
    manager = PluginManager()
    assert [info.provider.plugin for info in manager.infos] == ["ant", "bee"]
    collected = passes(manager)
    assert list(collected) == ["dig", "hum"]
    assert collected["hum"].provider == Provider("bee", "dist-bee", "2.0")
    assert collected["hum"].value == Pass("hum", implementation="m:x")


def test_an_info_tells_what_was_imported_and_required(site) -> None:
    requires = ["hopyard-hookspecs>=0.1"]
    site.install("d", plugins={"a": "site_a"}, requires=requires, site_a=YIELDS.format("x"))
    (info,) = PluginManager().infos
    assert (info.entry_point, info.requirement) == ("site_a", ">=0.1")
    assert info.hooks == ("hopyard_register_passes",)
    assert info.error is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.status = PluginStatus.FAILED  # type: ignore[misc]


def test_without_discovery_neither_plugins_nor_variables_are_read(site, monkeypatch) -> None:
    site.plugin("ant", "raise AssertionError")
    monkeypatch.setenv("HOPYARD_PLUGINS_DENY", "no-such-plugin")
    assert PluginManager(discover=False).infos == ()


def test_the_first_plugin_at_fault_is_raised_in_the_order_of_slugs(site) -> None:
    site.plugin("bee", "raise ValueError('bee')")
    site.plugin("ant", "raise ValueError('ant')")
    with pytest.raises(PluginLoadError) as raised:
        PluginManager()
    assert str(raised.value.plugin) == "ant [dist-ant 1.0]"
    assert repr(raised.value.__cause__) == "ValueError('ant')"


def test_an_incompatible_plugin_is_raised_or_reported(site) -> None:
    site.install("d", plugins={"a": "m"}, requires=["hopyard-hookspecs>=5"])
    with pytest.raises(IncompatibleError):
        PluginManager()
    (info,) = PluginManager(strict=False).infos
    assert info.status is PluginStatus.INCOMPATIBLE
    assert isinstance(info.error, IncompatibleError)


def test_one_failing_plugin_costs_the_others_nothing(site) -> None:
    site.plugin("ant", "import sys; sys.exit()")
    site.plugin("bee", YIELDS.format("hum"))
    manager = PluginManager(strict=False)
    assert statuses(manager) == {"ant": "failed", "bee": "active"}
    assert list(passes(manager)) == ["hum"]


def test_disabled_plugins_are_listed_and_not_imported(site) -> None:
    site.plugin("ant", "raise AssertionError('imported')")
    site.plugin("bee")
    manager = PluginManager(deny=["ant"])
    assert statuses(manager) == {"ant": "disabled", "bee": "active"}
    assert "site_ant" not in sys.modules
    assert manager.info("ant").error is None
    assert manager.info("ant").provider.distribution == "dist-ant"


def test_an_empty_allow_list_disables_what_is_discovered_but_not_what_is_given(site) -> None:
    site.plugin("ant")
    manager = PluginManager(allow=(), plugins=[GivenPlugin(Passes("x"), "mine")])
    assert statuses(manager) == {"ant": "disabled", "mine": "active"}


def test_a_given_plugin_can_be_denied(site, monkeypatch) -> None:
    monkeypatch.setenv("HOPYARD_PLUGINS_DENY", "mine")
    plugin = Passes("x")
    manager = PluginManager(plugins=[GivenPlugin(plugin, "mine")])
    assert statuses(manager) == {"mine": "disabled"}
    assert passes(manager) == {}
    assert plugin.calls == 0


def test_a_misspelt_list_is_refused_strict_or_not(site) -> None:
    site.plugin("ant")
    for strict in (True, False):
        with pytest.raises(UnknownNameError) as raised:
            PluginManager(deny=["ants"], strict=strict)
        assert raised.value.closest == "ant"


def test_one_distribution_may_hold_several_plugins(site) -> None:
    site.install(
        "both", plugins={"a": "site_a", "b": "site_b"},
        site_a=YIELDS.format("x"), site_b=YIELDS.format("y"),
    )  # fmt: skip
    assert {name: each.provider.plugin for name, each in passes(PluginManager()).items()} == {
        "x": "a",
        "y": "b",
    }


def test_one_module_is_not_two_plugins(site) -> None:
    site.install("both", plugins={"a": "site_a", "b": "site_a"}, site_a=YIELDS.format("x"))
    manager = PluginManager(strict=False)
    assert statuses(manager) == {"a": "active", "b": "failed"}
    assert "'a'" in str(manager.info("b").error)
    assert list(passes(manager)) == ["x"]


def test_two_distributions_with_one_slug_are_both_refused(site) -> None:
    site.install("one", plugins={"same": "site_one"}, site_one=YIELDS.format("x"))
    site.install("two", "2.0", plugins={"same": "site_two"}, site_two=YIELDS.format("y"))
    claimants = (Provider("same", "one", "1.0"), Provider("same", "two", "2.0"))
    with pytest.raises(DuplicateNameError) as raised:
        PluginManager()
    assert raised.value.claimants == claimants
    manager = PluginManager(strict=False)
    assert [info.provider for info in manager.infos] == list(claimants)
    assert {info.status for info in manager.infos} == {PluginStatus.FAILED}
    assert {type(info.error) for info in manager.infos} == {DuplicateNameError}
    assert passes(manager) == {}
    assert not {"site_one", "site_two"} & set(sys.modules)


def test_a_distribution_that_announces_a_slug_twice_is_refused(site) -> None:
    site.install("one", plugins="[hopyard.plugins]\na = site_a\na = site_b\n")
    with pytest.raises(DuplicateNameError):
        PluginManager()
    assert len(PluginManager(strict=False).infos) == 2


def test_denying_a_slug_that_two_claim_settles_it(site) -> None:
    site.install("one", plugins={"same": "m"})
    site.install("two", plugins={"same": "m"})
    assert {info.status for info in PluginManager(deny=["same"]).infos} == {PluginStatus.DISABLED}


def test_no_installed_plugin_can_push_out_a_given_one(site) -> None:
    site.plugin("kernel", YIELDS.format("bad"))
    kernel = GivenPlugin(Passes("core"), "kernel", "hopyard", "0.1")
    with pytest.raises(DuplicateNameError) as raised:
        PluginManager(plugins=[kernel])
    assert [each.distribution for each in raised.value.claimants] == ["hopyard", "dist-kernel"]
    manager = PluginManager(plugins=[kernel], strict=False)
    assert list(passes(manager)) == ["core"]
    assert {info.provider.distribution: str(info.status) for info in manager.infos} == {
        "hopyard": "active",
        "dist-kernel": "failed",
    }
    assert manager.info("kernel").status is PluginStatus.ACTIVE


def test_a_slug_is_registered_once(site) -> None:
    for strict in (True, False):
        manager = PluginManager(strict=strict)
        manager.register(Passes("x"), "mine", distribution="one", version="1")
        with pytest.raises(DuplicateNameError) as raised:
            manager.register(Passes("y"), "mine", distribution="two", version="2")
        assert [str(each) for each in raised.value.claimants] == ["mine [one 1]", "mine [two 2]"]
        assert list(passes(manager)) == ["x"]


def test_an_object_is_registered_once() -> None:
    manager = PluginManager(discover=False)
    plugin = Passes("x")
    manager.register(plugin, "first")
    with pytest.raises(PluginLoadError, match="'first'"):
        manager.register(plugin, "second")
    assert list(passes(manager)) == ["x"]
    assert statuses(manager) == {"first": "active"}


def test_an_equal_object_is_the_same_plugin() -> None:
    @dataclasses.dataclass(frozen=True)
    class Alike:
        name: str

        @hookimpl
        def hopyard_register_passes(self):
            yield Pass(self.name, implementation="m:x")

    manager = PluginManager(discover=False, strict=False)
    for slug, name in (("first", "x"), ("second", "x"), ("third", "y")):
        manager.register(Alike(name), slug)
    assert statuses(manager) == {"first": "active", "second": "failed", "third": "active"}
    assert sorted(passes(manager)) == ["x", "y"]


def test_an_object_that_cannot_be_compared_is_reported() -> None:
    class Proud(Passes):
        def __eq__(self, other: object) -> bool:
            raise RuntimeError("incomparable")

        __hash__ = None  # type: ignore[assignment]

    manager = PluginManager(discover=False, strict=False)
    manager.register(Passes("x"), "first")
    info = manager.register(Proud("y"), "second")
    assert (info.status, repr(info.error.__cause__)) == (
        PluginStatus.FAILED,
        "RuntimeError('incomparable')",
    )
    assert list(passes(manager)) == ["x"]


def test_an_unknown_plugin_is_answered_with_the_closest() -> None:
    manager = PluginManager(discover=False, plugins=[GivenPlugin(Passes(), "mine")])
    with pytest.raises(UnknownNameError) as raised:
        manager.info("mint")
    assert raised.value.closest == "mine"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (GivenPlugin(Passes(), "x", "d", "1"), Provider("x", "d", "1")),
        (GivenPlugin(Passes(), "x", "pluggy-fork"), Provider("x", "pluggy-fork", "unknown")),
        (
            GivenPlugin(Passes(), "x", "hopyard-hookspecs"),
            Provider("x", "hopyard-hookspecs", "0.1.0"),
        ),
        (GivenPlugin(Passes(), "x"), Provider("x", UNPACKAGED, "unknown")),
        (Passes(), Provider("passes", UNPACKAGED, "unknown")),
        (sys.modules["hopyard_hookspecs.passes"], Provider("passes", "hopyard-hookspecs", "0.1.0")),
        (sys.modules["hopyard_hookspecs"], Provider("hookspecs", "hopyard-hookspecs", "0.1.0")),
    ],
)
def test_a_given_plugin_is_attributed_as_well_as_can_be(site, given, expected) -> None:
    assert PluginManager(plugins=[given]).infos[0].provider == expected


def test_two_threads_may_load_plugins_at_the_same_time(site) -> None:
    for index in range(12):
        site.plugin(f"p{index:02}", "import time; time.sleep(0.002)" + YIELDS.format(f"n{index}"))
    found: list[list[str]] = []
    barrier = threading.Barrier(4)

    def run() -> None:
        barrier.wait()
        manager = PluginManager()
        manager.register(Passes("own"), "own")
        found.append(sorted(passes(manager)))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [sorted(["own", *(f"n{index}" for index in range(12))])] * 4


def test_managers_share_nothing(site) -> None:
    first, second = PluginManager(), PluginManager()
    first.register(Passes("x"), "mine")
    assert second.infos == ()
    assert passes(second) == {}
    second.register(Passes("y"), "mine")
    assert list(passes(first)) == ["x"]


def test_one_manager_may_be_extended_and_asked_by_several_threads() -> None:
    manager = PluginManager(discover=False)
    errors: list[Exception] = []

    def register(first: int) -> None:
        try:
            for index in range(first, first + 40):
                manager.register(Passes(f"n{index}"), f"p{index}", distribution="d", version="1")
                passes(manager)
        except Exception as error:  # noqa: BLE001 - the test fails with it
            errors.append(error)

    threads = [threading.Thread(target=register, args=(start,)) for start in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(passes(manager)) == 120
