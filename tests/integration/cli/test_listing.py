from __future__ import annotations

import pytest

BROKEN = "import a_module_that_is_missing\n"
DANGLING = """
    from hopyard_hookspecs import Pass, hookimpl

    @hookimpl
    def hopyard_register_passes():
        yield Pass("dangling", "site_dangling:Missing")
"""


@pytest.mark.parametrize(
    "command", ["plugins list", "hops", "passes", "hooks", "--version", "--help", "run --help"]
)
def test_what_only_lists_leaves_torch_unloaded(place, command):
    program = "import sys; from hopyard.cli import main; code = main(sys.argv[1:]); " + (
        "sys.exit(code or 'torch' in sys.modules)"
    )
    done = place.process(*command.split(), program=("-W", "error", "-c", program))
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert done.stderr == ""


def test_plugins_are_listed_with_state_version_and_hooks(place):
    place.run("plugins", "list")
    header, *rows = place.out.splitlines()
    assert header.split() == ["PLUGIN", "STATUS", "DISTRIBUTION", "VERSION", "HOOKS"]
    (row,) = (row for row in rows if row.startswith("good "))
    assert row.split()[:4] == ["good", "active", "dist-good", "1.0"]
    assert row.index("hopyard_register_hops") == header.index("HOOKS")
    assert "\x1b" not in place.out
    (data,) = (
        each for each in place.json("plugins", "list")["plugins"] if each["plugin"] == "good"
    )
    assert data["status"] == "active"
    assert "hopyard_register_passes" in data["hooks"]


def test_a_broken_plugin_is_reported_and_hides_nothing(place):
    place.install("broken", BROKEN)
    names = [each["name"] for each in place.json("passes")["passes"]]
    assert names == ["explode", "keep", "rescale"]
    assert place.code == 0
    assert place.err.startswith("hopyard: warning: broken [dist-broken 1.0]: ")
    assert "a_module_that_is_missing" in place.err
    (data,) = (
        each for each in place.json("plugins", "list")["plugins"] if each["plugin"] == "broken"
    )
    assert data["status"] == "failed"
    assert "a_module_that_is_missing" in data["error"]


def test_a_check_succeeds_if_every_plugin_works(place):
    place.run("plugins", "check")
    assert place.code == 0
    assert "ok            good [dist-good 1.0]" in place.out
    assert place.out.endswith("Every plugin works.\n")


def test_a_check_finds_broken_imports_and_references_that_lead_nowhere(place):
    place.install("broken", BROKEN)
    place.install("dangling", DANGLING)
    plugins = {each["plugin"]: each for each in place.json("plugins", "check")["plugins"]}
    assert place.code == 1
    assert [slug for slug, each in plugins.items() if not each["ok"]] == ["broken", "dangling"]
    assert "'site_dangling:Missing'" in plugins["dangling"]["problems"][0]
    place.run("plugins", "check")
    assert place.code == 1
    assert "No module named 'a_module_that_is_missing'" in place.out
    assert f"raised at {place.site / 'site_broken.py'}:1" in place.out
    place.run("plugins", "check", "--traceback")
    assert "Traceback" in place.out
    assert "\n    ModuleNotFoundError: No module named 'a_module_that_is_missing'" in place.out


def test_a_pass_is_described_with_its_options(place):
    place.run("passes", "rescale")
    assert place.out.splitlines() == [
        "rescale: Multiply constants.",
        "transforms a graph, provided by good [dist-good 1.0]",
        "",
        "options:",
        "  factor: float, default 1.0",
        "  label: text or none, default none",
        "",
        "Multiply the constants of multiplications.",
    ]
    factor, label = place.json("passes", "rescale")["options"]
    assert factor == {"name": "factor", "type": "float", "required": False, "default": 1.0}
    assert label["default"] is None
    assert place.run("passes", "keep").out.splitlines()[-1] == "no options"


def test_operators_are_listed_with_who_provides_them(place):
    (data,) = place.json("hops")["hops"]
    assert data["name"] == "good__region"
    assert data["provider"] == {"plugin": "good", "distribution": "dist-good", "version": "1.0"}
    assert place.run("hops").out.splitlines()[1].split()[:2] == ["good__region", "region"]


def test_hooks_are_listed_with_what_may_still_change(place):
    hooks = {hook["name"]: hook for hook in place.json("hooks")["hooks"]}
    assert hooks["hopyard_register_backends"]["provisional"]
    assert not hooks["hopyard_register_passes"]["provisional"]
    assert hooks["hopyard_before_pass"]["arguments"] == ["step", "graph_module"]
    lines = place.run("hooks").out.splitlines()
    assert {line.split()[1] for line in lines[1:]} == {"stable", "provisional"}


def test_an_environment_without_plugins_has_the_frameworks_own(place, monkeypatch):
    monkeypatch.setattr("hopyard.plugins._manager.find", tuple)
    monkeypatch.delenv("HOPYARD_PLUGINS_ALLOW")
    assert place.run("passes").out == "No plugin provides a pass.\n"
    assert place.run("hops").out == "No plugin defines a higher-order operator.\n"
    (own,) = place.json("plugins", "list")["plugins"]
    assert (own["plugin"], own["distribution"], own["status"]) == ("kernel", "hopyard", "active")
    assert own["hooks"] == ["hopyard_register_modes"]
    assert "kernel" in place.run("plugins", "list").out
