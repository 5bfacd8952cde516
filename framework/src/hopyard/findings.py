"""Findings for other tools: as JSON, and as SARIF for code review and editors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from importlib_metadata import version

from hopyard_hookspecs import Finding, Hazard, Policy, Severity, SourceLocation

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "note"}


def to_json(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Return findings as values that JSON can hold; :func:`from_json` reads them back.

    Example::

        json.dumps(to_json(program.findings))
    """
    return [
        asdict(finding) | {"policy": finding.policy.value, "severity": finding.severity.value}
        for finding in findings
    ]


def from_json(values: Iterable[Mapping[str, Any]]) -> tuple[Finding, ...]:
    """Return the findings that :func:`to_json` wrote.

    Raises:
        KeyError, TypeError, ValueError: They are none.
    """
    return tuple(_read(value) for value in values)


def _read(value: Mapping[str, Any]) -> Finding:
    where = value["location"]
    texts = ("code", "message", "remedy", "safeguard", "allowed")
    if not all(isinstance(value[name], str) for name in texts):
        raise ValueError(f"{value!r:.80} is no finding")
    return Finding(
        **{name: value[name] for name in texts},
        location=where
        and SourceLocation(str(where["file"]), int(where["line"]), str(where["function"])),
        severity=Severity(value["severity"]),
        policy=Policy(value["policy"]),
    )


def to_sarif(findings: Iterable[Finding], hazards: Mapping[str, Hazard]) -> dict[str, Any]:
    """Return findings as a SARIF 2.1.0 log, the form that code hosts and editors show in place.

    Example::

        json.dumps(to_sarif(program.findings, session.hazards))

    Args:
        findings: What to tell, each a result of its code's rule.
        hazards: What codes mean, by code.
    """
    found = list(findings)
    codes = sorted({finding.code for finding in found})
    driver = {
        "name": "hopyard",
        "version": version("hopyard"),
        "rules": [_rule(code, hazards.get(code)) for code in codes],
    }
    results = [_result(finding, codes.index(finding.code)) for finding in found]
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }


def _rule(code: str, hazard: Hazard | None) -> dict[str, Any]:
    if hazard is None:
        return {"id": code}
    rule: dict[str, Any] = {
        "id": code,
        "shortDescription": {"text": hazard.title},
        "help": {"text": hazard.remedy},
        "defaultConfiguration": {"level": _LEVELS[hazard.severity]},
    }
    return rule | ({"helpUri": hazard.page} if "://" in hazard.page else {})


def _result(finding: Finding, rule: int) -> dict[str, Any]:
    what = f"{finding.message}; {finding.remedy}" if finding.remedy else finding.message
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "ruleIndex": rule,
        "level": _LEVELS[finding.severity],
        "message": {"text": what},
        "properties": {"safeguard": finding.safeguard, "policy": finding.policy.value},
    }
    where = finding.location
    if where is not None:
        place: dict[str, Any] = {
            "physicalLocation": {
                "artifactLocation": {"uri": _uri(where.file)},
                "region": {"startLine": where.line},
            }
        }
        if where.function:
            place["logicalLocations"] = [{"fullyQualifiedName": where.function}]
        result["locations"] = [place]
    if finding.allowed:
        suppression = {"kind": "inSource", "status": "accepted", "justification": finding.allowed}
        result["suppressions"] = [suppression]
    elif finding.policy is Policy.IGNORE:
        result["suppressions"] = [{"kind": "external", "status": "accepted"}]
    return result


def _uri(file: str) -> str:
    path = Path(file)
    return path.as_uri() if path.is_absolute() else path.as_posix()
