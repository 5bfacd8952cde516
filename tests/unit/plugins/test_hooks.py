"""Which objects are accepted as plugins."""

from __future__ import annotations

import pluggy
import pytest

from hopyard.errors import PluginLoadError
from hopyard.plugins import PluginManager, PluginStatus
from hopyard_hookspecs import hookimpl


class Misspelt:
    @hookimpl
    def hopyard_register_pases(self):
        return ()


class MisspeltBySpecname:
    @hookimpl(specname="hopyard_register_pases")
    def passes(self):
        return ()


class NoSuchArgument:
    @hookimpl
    def hopyard_before_pass(self, stepp, graph_module):
        pass


class ArgumentOnRegistration:
    @hookimpl
    def hopyard_register_passes(self, session):
        return ()


class KeywordOnly:
    @hookimpl
    def hopyard_before_capture(self, *, request):
        pass


class Unmarked:
    def hopyard_register_passes(self):
        return ()


class UnmarkedAndMisspelt:
    def hopyard_register_pases(self):
        return ()


class UnmarkedStatic:
    @staticmethod
    def hopyard_after_pass(record):
        pass


class Wrapper:
    @hookimpl(wrapper=True)
    def hopyard_register_passes(self):
        return (yield)


class OldWrapper:
    @hookimpl(hookwrapper=True)
    def hopyard_register_passes(self):
        yield


class GeneratorObserver:
    @hookimpl
    def hopyard_before_capture(self, request):
        yield


class AsyncObserver:
    @hookimpl
    async def hopyard_before_capture(self, request):
        pass


class AsyncRegistration:
    @hookimpl
    async def hopyard_register_passes(self):
        yield


class NeedsInstance:
    @hookimpl
    def hopyard_register_passes(self):
        return ()


AT_FAULT = [
    pytest.param(Misspelt(), "hopyard_register_pases", id="misspelt"),
    pytest.param(MisspeltBySpecname(), "hopyard_register_pases", id="misspelt specname"),
    pytest.param(NoSuchArgument(), "stepp", id="unknown argument"),
    pytest.param(ArgumentOnRegistration(), "session", id="argument on registration"),
    pytest.param(KeywordOnly(), "keyword only", id="keyword only"),
    pytest.param(Unmarked(), "not marked", id="unmarked"),
    pytest.param(UnmarkedAndMisspelt(), "not marked", id="unmarked and misspelt"),
    pytest.param(UnmarkedStatic(), "not marked", id="unmarked static method"),
    pytest.param(Wrapper(), "wrapper", id="wrapper"),
    pytest.param(OldWrapper(), "wrapper", id="old wrapper"),
    pytest.param(GeneratorObserver(), "generator", id="generator observer"),
    pytest.param(AsyncObserver(), "async", id="async observer"),
    pytest.param(AsyncRegistration(), "async", id="async registration"),
    pytest.param(NeedsInstance, "instance", id="class instead of instance"),
    pytest.param(None, "None", id="none"),
]


@pytest.mark.parametrize(("plugin", "word"), AT_FAULT)
def test_a_strict_manager_raises(plugin: object, word: str) -> None:
    manager = PluginManager(discover=False)
    with pytest.raises(PluginLoadError) as raised:
        manager.register(plugin, "bad", distribution="dist-bad", version="2")
    assert word in raised.value.message
    assert str(raised.value.plugin) == "bad [dist-bad 2]"
    assert manager.infos == ()


@pytest.mark.parametrize(("plugin", "word"), AT_FAULT)
def test_a_refused_plugin_leaves_no_trace(plugin: object, word: str) -> None:
    manager = PluginManager(discover=False)
    with pytest.raises(PluginLoadError):
        manager.register(plugin, "slug")
    info = manager.register(GoodInstance(), "slug")
    assert info.status is PluginStatus.ACTIVE
    assert manager.collect("pass", "hopyard_register_passes", str, object) == {}


@pytest.mark.parametrize(("plugin", "word"), AT_FAULT)
def test_a_lenient_manager_keeps_the_reason_and_never_calls_it(plugin: object, word: str) -> None:
    manager = PluginManager(discover=False, strict=False)
    info = manager.register(plugin, "bad")
    assert info.status is PluginStatus.FAILED
    assert word in str(info.error)
    assert info.hooks == ()
    assert manager.collect("pass", "hopyard_register_passes", str, object) == {}
    manager.notify("hopyard_before_capture", request=None)


def test_the_closest_hook_and_pluggys_own_verdict_come_with_a_misspelt_one() -> None:
    with pytest.raises(PluginLoadError) as raised:
        PluginManager(discover=False).register(Misspelt(), "bad")
    assert raised.value.hint.startswith("did you mean 'hopyard_register_passes'?")
    assert raised.value.stage == "hopyard_register_pases"
    assert isinstance(raised.value.__cause__, pluggy.PluginValidationError)


def test_an_optional_hook_is_not_blamed_for_a_misspelt_one() -> None:
    class Both(Misspelt):
        @hookimpl(optionalhook=True)
        def hopyard_of_another_version(self):
            pass

    with pytest.raises(PluginLoadError) as raised:
        PluginManager(discover=False).register(Both(), "bad")
    assert raised.value.stage == "hopyard_register_pases"


def test_the_closest_argument_comes_with_a_misspelt_one() -> None:
    with pytest.raises(PluginLoadError) as raised:
        PluginManager(discover=False).register(NoSuchArgument(), "bad")
    assert raised.value.hint == "did you mean 'step'? valid names: graph_module, step"
    assert raised.value.stage == "hopyard_before_pass"


def test_a_misspelt_hook_is_not_blamed_on_plugins_that_come_later() -> None:
    manager = PluginManager(discover=False, strict=False)
    manager.register(Misspelt(), "bad")
    assert manager.register(GoodInstance(), "good").status is PluginStatus.ACTIVE
    assert manager.info("bad").status is PluginStatus.FAILED


class GoodInstance:
    @hookimpl
    def hopyard_register_passes(self):
        return ()

    @hookimpl(optionalhook=True)
    def hopyard_of_another_version(self):
        raise AssertionError("never called")

    def hopyard_helper(self):
        raise AssertionError("never called")

    @property
    def hopyard_register_nothing(self):
        raise AssertionError("never read")


class GoodClass:
    @staticmethod
    @hookimpl
    def hopyard_register_passes():
        return ()

    @classmethod
    @hookimpl
    def hopyard_register_modes(cls):
        return ()


def test_an_instance_is_a_plugin_and_its_other_attributes_are_its_own_business() -> None:
    info = PluginManager(discover=False).register(GoodInstance(), "good")
    assert info.hooks == ("hopyard_register_passes",)


def test_a_class_is_a_plugin_if_its_hooks_need_no_instance() -> None:
    info = PluginManager(discover=False).register(GoodClass, "good")
    assert info.hooks == ("hopyard_register_modes", "hopyard_register_passes")


def test_a_module_that_imports_a_specification_is_not_taken_to_implement_it(site) -> None:
    source = "from hopyard_hookspecs.passes import hopyard_register_passes"
    site.plugin("a", source)
    (info,) = PluginManager().infos
    assert (info.status, info.hooks) == (PluginStatus.ACTIVE, ())


def test_an_object_whose_attributes_raise_is_reported_rather_than_raising_itself() -> None:
    class Hostile:
        def __dir__(self):
            raise RuntimeError("go away")

    manager = PluginManager(discover=False, strict=False)
    info = manager.register(Hostile(), "hostile")
    assert info.status is PluginStatus.FAILED
    assert isinstance(info.error.__cause__, RuntimeError)
