"""Objects named by text."""

from __future__ import annotations

import collections
import sys

import pytest

from hopyard.errors import PluginLoadError
from hopyard.plugins import resolve
from hopyard_hookspecs import Provider

PROVIDER = Provider("mine", "dist-mine", "3.1")


def test_text_names_an_attribute_of_a_module() -> None:
    assert resolve("collections:OrderedDict", PROVIDER) is collections.OrderedDict
    assert resolve("os.path:join") is sys.modules["os"].path.join
    assert resolve("collections:OrderedDict.fromkeys") == collections.OrderedDict.fromkeys


def test_an_object_is_its_own_reference() -> None:
    assert resolve(len, PROVIDER) is len


def test_a_module_is_imported_only_when_resolved(site) -> None:
    site.install("dist-a", site_a="thing = object()")
    assert "site_a" not in sys.modules
    assert resolve("site_a:thing") is sys.modules["site_a"].thing


@pytest.mark.parametrize(
    "text", ["", "collections", "collections:", ":x", "a b:c", "a:b:c", "a..b:c"]
)
def test_text_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(PluginLoadError) as raised:
        resolve(text, PROVIDER)
    assert raised.value.plugin == PROVIDER
    assert raised.value.hint == "write package.module:attribute"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("no_such_module:x", ModuleNotFoundError),
        ("collections:OrderedDit", AttributeError),
        ("site_exits:x", SystemExit),
        ("site_raises:x", ZeroDivisionError),
        ("site_lazy:x", LookupError),
    ],
)
def test_failures_name_the_plugin_and_keep_the_cause(site, text: str, cause: type) -> None:
    site.install(
        "dist-a",
        site_exits="raise SystemExit",
        site_raises="1 / 0",
        site_lazy="def __getattr__(name): raise LookupError(name)",
    )
    with pytest.raises(PluginLoadError) as raised:
        resolve(text, PROVIDER)
    assert raised.value.plugin == PROVIDER
    assert raised.value.stage == "import"
    assert isinstance(raised.value.__cause__, cause)
    assert text in raised.value.message


def test_a_misspelt_attribute_is_answered_with_the_right_one() -> None:
    with pytest.raises(PluginLoadError) as raised:
        resolve("collections:OrderedDit")
    assert raised.value.hint == "did you mean 'OrderedDict'?"


def test_an_interrupt_passes(site) -> None:
    site.install("dist-a", site_a="raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        resolve("site_a:x", PROVIDER)
