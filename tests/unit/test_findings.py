"""Findings for other tools."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import hopyard
from hopyard.findings import from_json, to_json, to_sarif
from hopyard_hookspecs import Finding, Hazard, Policy, Severity, SourceLocation

HAZARDS = {
    "TS001": Hazard("TS001", "sine", remedy="use a cosine", page="https://example.org/TS001"),
    "TS002": Hazard("TS002", "noise", remedy="none", severity=Severity.NOTE, page="docs/TS002.md"),
}
FOUND = [
    Finding(
        "TS002",
        "noisy",
        severity=Severity.NOTE,
        policy=Policy.RECORD,
        safeguard="test",
        location=SourceLocation("/models/net.py", 12, "Net.forward"),
    ),
    Finding("TS001", "a sine", "use a cosine", policy=Policy.RECORD, allowed="meant so"),
]


def test_json_keeps_all_that_a_finding_says() -> None:
    first, second = json.loads(json.dumps(to_json(FOUND)))
    assert first["location"] == {"file": "/models/net.py", "line": 12, "function": "Net.forward"}
    assert (first["severity"], first["policy"], first["safeguard"]) == ("note", "record", "test")
    assert (second["allowed"], second["location"]) == ("meant so", None)


def test_json_is_read_back() -> None:
    assert from_json(json.loads(json.dumps(to_json(FOUND)))) == tuple(FOUND)


@pytest.mark.parametrize("change", [{"code": 3}, {"policy": "no"}, {"severity": None}])
def test_what_is_no_finding_is_refused(change: dict[str, object]) -> None:
    (value, _) = to_json(FOUND)
    with pytest.raises(ValueError, match=r"finding|not a valid"):
        from_json([value | change])


def test_findings_are_saved_with_the_program(tmp_path: Path) -> None:
    def program(x: torch.Tensor) -> torch.Tensor:
        with hopyard.allow("HY101", reason="meant so"), torch.no_grad():
            scale = x.abs()
        return x * scale

    captured = hopyard.Session().capture(program, (torch.ones(2),))
    assert len(captured.findings) == 1
    captured.save(tmp_path / "program.pt2")
    assert hopyard.load(tmp_path / "program.pt2").findings == captured.findings


def test_sarif_has_rules_results_and_places() -> None:
    log = json.loads(json.dumps(to_sarif(FOUND, HAZARDS)))
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == ["TS001", "TS002"]
    assert rules[0]["helpUri"] == "https://example.org/TS001"
    assert "helpUri" not in rules[1]
    noisy, sine = run["results"]
    assert (noisy["ruleIndex"], noisy["level"]) == (1, "note")
    (place,) = noisy["locations"]
    assert place["physicalLocation"] == {
        "artifactLocation": {"uri": "file:///models/net.py"},
        "region": {"startLine": 12},
    }
    assert place["logicalLocations"] == [{"fullyQualifiedName": "Net.forward"}]
    assert sine["message"]["text"] == "a sine; use a cosine"
    assert sine["suppressions"][0]["justification"] == "meant so"
    assert "locations" not in sine


def test_no_findings_make_an_empty_log() -> None:
    (run,) = to_sarif([], {})["runs"]
    assert run["results"] == run["tool"]["driver"]["rules"] == []
