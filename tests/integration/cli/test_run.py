from __future__ import annotations

import json

import pytest
import torch

from hopyard import Session


def test_a_program_is_captured_transformed_compared_and_written(place):
    place.run("run", "factories:make", "--pipeline", "rescale{factor=1},keep", "--out", "net.pt2")
    assert place.code == 0
    assert place.err == ""
    lines = place.out.splitlines()
    assert lines[:3] == [
        "the factory was called",
        "factory    factories:make",
        "pipeline   rescale{factor=1},keep",
    ]
    steps = {line.split()[0]: line for line in lines if line[:1].islower()}
    assert steps["rescale{factor=1}"].endswith("good [dist-good 1.0]")
    assert " yes " in steps["rescale{factor=1}"]
    assert " no " in steps["keep"]
    assert steps["deviation"].startswith("deviation  0 from eager ")
    assert steps["written"] == "written    net.pt2"

    program = Session(discover=False).load("net.pt2")
    program(torch.randn(5, 4))
    assert [path.name for path in place.folder.iterdir() if path.suffix == ".pt2"] == ["net.pt2"]


def test_the_file_holds_the_state_that_the_factory_made(place):
    """The comparison runs a batch norm in training, whose statistics must not be saved."""
    place.run("run", "factories:make", "--out", "net.pt2")
    state = Session(discover=False).load("net.pt2").state
    assert state["norm.num_batches_tracked"].item() == 0
    assert state["norm.running_mean"].tolist() == [0.0, 0.0, 0.0]


def test_json_is_all_there_is_on_standard_output(place):
    data = place.json("run", "factories:make", "--pipeline", "keep,rescale{factor=1}")
    assert place.err == "the factory was called\n"
    assert data["nodes_before"] == data["nodes_after"] > 0
    assert data["out"] is None
    assert data["deviation"]["largest"] == 0
    keep, rescale = data["passes"]
    assert (keep["text"], keep["modified"]) == ("keep", False)
    assert rescale["options"] == {"factor": 1.0, "label": None}
    assert rescale["provider"]["distribution"] == "dist-good"
    assert set(data["seconds"]) == {"capture", "program", "eager"}


def test_graphs_of_passes_are_written(place):
    command = ["run", "factories:make", "--pipeline", "keep,rescale{factor=1}", "--dump", "dumps"]
    place.run(*command)
    assert place.code == 0
    names = [path.name for path in sorted((place.folder / "dumps").iterdir())]
    assert names == ["001-rescale-after.txt", "001-rescale-diff.txt"]
    place.run(*command[:-1], "before", "--dump-when", "before")
    assert len(list((place.folder / "before").iterdir())) == 2


def test_a_pipeline_is_read_from_a_file(place):
    (place.folder / "passes.toml").write_text(
        '[[step]]\npass = "rescale"\noptions = { factor = 1 }\n[[step]]\npass = "keep"\n'
    )
    data = place.json("run", "factories:make", "--pipeline", "@passes.toml")
    assert data["pipeline"] == "rescale{factor=1},keep"
    place.run("run", "factories:make", "--pipeline", "@missing.toml")
    assert place.code == 2
    assert "missing.toml" in place.err


def test_a_group_has_a_line_for_each_run_of_a_pass(place):
    data = place.json("run", "factories:make", "--pipeline", "repeat(keep,!rescale),keep")
    assert [each["text"] for each in data["passes"]] == ["keep", "keep"]


def test_a_program_that_computes_something_else_is_not_written(place):
    command = ["run", "factories:make", "--pipeline", "rescale{factor=1.5}", "--out", "net.pt2"]
    place.run(*command)
    assert place.code == 1
    assert "does not compute what eager does: result deviates by" in place.err
    assert list(place.folder.glob("net.pt2")) == []
    assert place.json(*command, "--tolerance", "1")["deviation"]["largest"] > 0.1
    assert (place.folder / "net.pt2").is_file()


def test_what_is_changed_in_place_is_compared_too(place):
    assert place.json("run", "factories:in_place")["deviation"]["largest"] == 0
    place.run("run", "factories:in_place", "--pipeline", "rescale{factor=1.5}")
    assert place.code == 1
    assert "deviates" in place.err


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("on", [False, True])
def test_gradients_are_off_unless_they_are_asked_for(place, on):
    options = ("--grad",) if on else ()
    data = place.json("run", "factories:with_gradients", "--out", "net.pt2", *options)
    assert data["deviation"]["largest"] == 0
    _, enabled = Session(discover=False).load("net.pt2")(torch.ones(3))
    assert enabled is on


def test_findings_are_part_of_the_answer(place):
    place.run("run", "factories:running_sum")
    assert place.code == 0
    assert place.err == ""
    (line,) = (line for line in place.out.splitlines() if "CF001" in line)
    assert "factories.py:" in line
    assert line.endswith("cumsum was called; sum at once")
    (finding,) = place.json("run", "factories:running_sum")["findings"]
    assert finding["code"] == "CF001"
    assert finding["location"]["file"].endswith("factories.py")
    assert finding["policy"] == "warn"


def test_a_broken_plugin_that_is_not_needed_is_left_out(place):
    place.install("broken", "raise RuntimeError('not today')")
    data = place.json("run", "factories:make", "--pipeline", "keep")
    assert place.code == 0
    assert "hopyard: warning: broken [dist-broken 1.0]: " in place.err
    assert "not today" in place.err
    assert place.err.count("(plugin left out)") == 1
    assert [each["plugin"] for each in data["plugins"]] == ["good"]


def test_what_an_absent_plugin_provides_names_the_distribution(place, monkeypatch):
    catalogue = {("pass", "fuse"): "hopyard-fusion"}
    monkeypatch.setattr("hopyard.plugins._catalogue.CATALOGUE", catalogue)
    place.run("run", "factories:make", "--pipeline", "fuse")
    assert place.code == 2
    assert "install it with 'pip install hopyard-fusion'" in place.err


@pytest.mark.parametrize("with_rich", [True, False])
def test_progress_is_shown_on_a_terminal_only(place, monkeypatch, with_rich):
    if with_rich:
        pytest.importorskip("rich", reason="colours come from rich")
    else:
        monkeypatch.setitem(__import__("sys").modules, "rich.console", None)
    monkeypatch.setenv("NO_COLOR", "1")
    place.run("run", "factories:make")
    assert place.err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    place.run("run", "factories:make", "--pipeline", "keep")
    assert place.code == 0
    assert ("capturing ...\nrunning keep ...\n" in place.err) is not with_rich


def test_sizes_may_differ_from_call_to_call(place):
    place.run("run", "factories:make", "--dynamic", "x:0=rows[2..9]", "--out", "net.pt2")
    assert place.code == 0
    program = Session(discover=False).load("net.pt2")
    assert program(torch.randn(9, 4)).shape[0] == 9
    assert any(guard.startswith("2 <= ") and guard.endswith(" <= 9") for guard in program.guards)


@pytest.mark.parametrize(
    ("text", "told"), [("x", "x:0=batch"), ("nothing:0", "nothing"), ("x:7", "dimensions")]
)
def test_a_size_that_is_not_there_is_refused(place, text, told):
    place.run("run", "factories:make", "--dynamic", text)
    assert place.code == 2
    assert told in place.err


def test_policies_come_from_the_command_line_and_the_project(place):
    place.run("run", "factories:running_sum", "--policy", "CF001=error")
    assert place.code == 1
    assert "CF001" in place.err
    (place.folder / "pyproject.toml").write_text('[tool.hopyard.policy]\nCF001 = "error"\n')
    place.run("run", "factories:running_sum")
    assert place.code == 1
    assert place.json("hazards")["hazards"][0]["policy"] == "error"
    (finding,) = place.json("run", "factories:running_sum", "--policy", "CF001=record")["findings"]
    assert finding["policy"] == "record"


@pytest.mark.parametrize(
    ("option", "told"),
    [("CF001", "CODE=POLICY"), ("CF001=wran", "'warn'"), ("CF0O1=warn", "'CF001'")],
)
def test_what_is_no_policy_is_misuse(place, option, told):
    place.run("run", "factories:running_sum", "--policy", option)
    assert place.code == 2
    assert told in place.err


def test_findings_are_written_for_other_tools(place):
    place.run("run", "factories:running_sum", "--findings", "found.sarif")
    (result,) = json.loads((place.folder / "found.sarif").read_text())["runs"][0]["results"]
    assert result["ruleId"] == "CF001"
    refused = ("--policy", "CF001=error", "--findings", "found.json")
    place.run("run", "factories:running_sum", *refused)
    assert place.code == 1
    (finding,) = json.loads((place.folder / "found.json").read_text())
    assert finding["policy"] == "error"
    for wrong in ("found.txt", "nowhere/found.json"):
        place.run("run", "factories:running_sum", "--findings", wrong)
        assert place.code == 2


def test_hazards_are_listed_and_described(place):
    place.run("hazards")
    (line,) = (line for line in place.out.splitlines() if "CF001" in line)
    assert "warn" in line
    place.run("hazards", "CF001")
    assert "remedy: sum at once" in place.out
    place.run("hazards", "CF0O1")
    assert place.code == 2
    assert "did you mean 'CF001'" in place.err
