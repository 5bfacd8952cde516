"""What users see when real distributions, good and bad, are installed together."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from installed_dists import InstalledDists

BAD = ("broken-import", "misspelt-hook", "too-new", "raising-hook", "exits-on-import")

REPORT = """
import json, sys
from hopyard.plugins import PluginManager
from hopyard_hookspecs import Pass

manager = PluginManager(strict=False)
passes = manager.collect("pass", "hopyard_register_passes", lambda each: each.name, Pass)
conflict = manager.conflict("pass", "good-first")
print(json.dumps({
    "passes": {name: str(each.provider) for name, each in passes.items()},
    "status": {info.provider.plugin: info.status for info in manager.infos},
    "provider": {info.provider.plugin: str(info.provider) for info in manager.infos},
    "error": {info.provider.plugin: str(info.error or "") for info in manager.infos},
    "cause": {
        info.provider.plugin: type(info.error.__cause__).__name__
        for info in manager.infos if info.error
    },
    "hooks": {info.provider.plugin: info.hooks for info in manager.infos},
    "conflict": str(conflict or ""),
    "imported": sorted(name for name in sys.modules if name.startswith("fixture_")),
}))
"""

STRICT = """
from hopyard.errors import PluginError
from hopyard.plugins import PluginManager
from hopyard_hookspecs import Pass

try:
    manager = PluginManager()
    manager.collect("pass", "hopyard_register_passes", lambda each: each.name, Pass)
except PluginError as error:
    cause = type(error.__cause__).__name__
    print(type(error).__name__, error.plugin, error.stage, cause, sep="|")
else:
    print("nothing raised")
"""


@pytest.fixture(scope="session")
def dists(tmp_path_factory: pytest.TempPathFactory) -> InstalledDists:
    return InstalledDists(tmp_path_factory.mktemp("installed"))


def output(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def report(dists: InstalledDists, *names: str, **variables: str) -> dict[str, Any]:
    return json.loads(output(dists.run(REPORT, *names, **variables)))


@pytest.fixture(scope="session")
def everything(dists: InstalledDists) -> dict[str, Any]:
    return report(dists, "good", *BAD)


def test_a_good_plugin_works_beside_every_kind_of_bad_one(everything: dict[str, Any]) -> None:
    assert everything["passes"] == {
        "good-first": "good [fixture-good 1.2.3]",
        "good-second": "good [fixture-good 1.2.3]",
    }
    assert everything["hooks"]["good"] == ["hopyard_before_capture", "hopyard_register_passes"]


def test_each_plugin_has_the_status_its_fault_deserves(everything: dict[str, Any]) -> None:
    assert everything["status"] == {
        "broken-import": "failed",
        "exits-on-import": "failed",
        "good": "active",
        "misspelt-hook": "failed",
        "raising-hook": "failed",
        "too-new": "incompatible",
    }
    assert list(everything["status"]) == sorted(everything["status"])


@pytest.mark.parametrize("slug", BAD)
def test_every_error_begins_with_plugin_distribution_and_version(
    everything: dict[str, Any], slug: str
) -> None:
    provider = everything["provider"][slug]
    assert provider.startswith(f"{slug} [fixture-{slug} ")
    assert everything["error"][slug].startswith(f"{provider}: ")


def test_causes_are_kept(everything: dict[str, Any]) -> None:
    assert everything["cause"] == {
        "broken-import": "ModuleNotFoundError",
        "exits-on-import": "SystemExit",
        "misspelt-hook": "PluginValidationError",
        "raising-hook": "RuntimeError",
        "too-new": "NoneType",
    }


def test_an_incompatible_plugin_is_not_imported(everything: dict[str, Any]) -> None:
    assert "fixture_too_new" not in everything["imported"]
    assert "fixture_good" in everything["imported"]


def test_a_misspelt_hook_is_answered_with_the_right_one(everything: dict[str, Any]) -> None:
    assert "did you mean 'hopyard_register_passes'?" in everything["error"]["misspelt-hook"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("broken-import", "PluginLoadError|{}|load|ModuleNotFoundError"),
        ("exits-on-import", "PluginLoadError|{}|load|SystemExit"),
        ("misspelt-hook", "PluginLoadError|{}|hopyard_register_pass|PluginValidationError"),
        ("raising-hook", "PluginLoadError|{}|hopyard_register_passes|RuntimeError"),
        ("too-new", "IncompatibleError|{}|load|NoneType"),
    ],
)
def test_a_strict_manager_raises_what_a_lenient_one_reports(
    dists: InstalledDists, everything: dict[str, Any], name: str, expected: str
) -> None:
    raised = output(dists.run(STRICT, "good", name))
    assert raised == expected.format(everything["provider"][name])


def test_a_strict_manager_accepts_good_plugins(dists: InstalledDists) -> None:
    assert output(dists.run(STRICT, "good")) == "nothing raised"


def test_a_name_claimed_twice_belongs_to_nobody(dists: InstalledDists) -> None:
    found = report(dists, "good", "duplicate-name")
    assert set(found["passes"]) == {"good-second", "duplicate-own"}
    for claimant in ("good [fixture-good 1.2.3]", "duplicate-name [fixture-duplicate-name 4.5.6]"):
        assert claimant in found["conflict"]
    assert found["status"] == {"duplicate-name": "active", "good": "active"}
    assert found["error"]["good"] == found["error"]["duplicate-name"] == found["conflict"]
    assert output(dists.run(STRICT, "good", "duplicate-name")).startswith("DuplicateNameError|")


def test_denying_one_claimant_gives_the_name_to_the_other(dists: InstalledDists) -> None:
    found = report(dists, "good", "duplicate-name", HOPYARD_PLUGINS_DENY="duplicate-name")
    assert found["passes"]["good-first"] == "good [fixture-good 1.2.3]"
    assert found["conflict"] == ""


def test_a_denied_plugin_can_do_no_harm(dists: InstalledDists) -> None:
    variables = {"HOPYARD_PLUGINS_DENY": ", ".join(BAD)}
    assert output(dists.run(STRICT, "good", *BAD, **variables)) == "nothing raised"
    found = report(dists, "good", *BAD, **variables)
    assert found["imported"] == ["fixture_good"]
    assert {found["status"][slug] for slug in BAD} == {"disabled"}


def test_an_allow_list_in_the_environment_keeps_the_others_out(dists: InstalledDists) -> None:
    found = report(dists, "good", "broken-import", HOPYARD_PLUGINS_ALLOW="good")
    assert found["status"] == {"good": "active", "broken-import": "disabled"}


def test_a_misspelt_slug_in_the_environment_is_refused(dists: InstalledDists) -> None:
    done = dists.run(STRICT, "good", HOPYARD_PLUGINS_DENY="godo")
    assert done.returncode == 1
    assert "HOPYARD_PLUGINS_DENY: there is no plugin named 'godo'" in done.stderr
    assert "did you mean 'good'?" in done.stderr


def test_listing_imports_no_plugin(dists: InstalledDists) -> None:
    program = """
import sys
from hopyard.plugins import find
print([each.slug for each in find()], [m for m in sys.modules if m.startswith("fixture_")])
"""
    assert output(dists.run(program, "good", *BAD)) == f"{sorted(['good', *BAD])} []"


def test_observers_are_called_and_the_one_that_raises_is_named(dists: InstalledDists) -> None:
    program = """
from hopyard.errors import PluginError
from hopyard.plugins import PluginManager
from hopyard_hookspecs import CaptureRequest
manager = PluginManager()
try:
    manager.notify("hopyard_before_capture", request=CaptureRequest(len, ()))
except PluginError as error:
    print(error.plugin, error.stage, repr(error.__cause__), sep="|")
"""
    assert output(dists.run(program, "good", "raising-hook")).splitlines() == [
        "good saw <built-in function len>",
        "raising-hook [fixture-raising-hook 0.0.3]|hopyard_before_capture"
        "|LookupError('no capture for me')",
    ]
