"""Findings for other tools."""

from __future__ import annotations

import json

from hopyard.findings import to_json, to_sarif
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
