"""What the command line says about findings: their policies, and a file for other tools."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from hopyard_hookspecs import Finding, Hazard, Policy

from ..errors import UsageError
from ..findings import to_json, to_sarif
from ..policies import parse_policy

_FORMATS = (".json", ".sarif")


def chosen_policies(texts: Iterable[str]) -> dict[str, Policy]:
    """Return the policies that options of the form CODE=POLICY choose.

    Raises:
        UsageError: One has another form.
        UnknownNameError: There is no such policy.
    """
    chosen = {}
    for text in texts:
        code, equals, name = text.partition("=")
        if not (code and equals):
            names = ", ".join(each.value for each in Policy)
            raise UsageError(
                f"--policy does not take {text!r}", hint=f"write CODE=POLICY, one of {names}"
            )
        chosen[code] = parse_policy(name)
    return chosen


def findings_file(text: str) -> Path:
    """Return the file to write findings to.

    Raises:
        UsageError: Its folder does not exist, or its name tells no format.
    """
    path = Path(text)
    if path.suffix not in _FORMATS:
        raise UsageError(
            f"--findings does not know the format of {text!r}",
            hint=f"end its name in {' or '.join(_FORMATS)}",
        )
    if not path.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {str(path.parent)!r} for --findings {text}")
    return path


def write_findings(path: Path, findings: Iterable[Finding], hazards: Mapping[str, Hazard]) -> None:
    """Write findings in the format that the file's name tells.

    Raises:
        UsageError: The file cannot be written.
    """
    content = to_sarif(findings, hazards) if path.suffix == ".sarif" else to_json(findings)
    try:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"findings cannot be written: {error}") from error
