"""Policies in files and for whole sessions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import hopyard
from hopyard.errors import SafeguardError, UnknownNameError, UsageError
from hopyard.policies import find_policies, read_policies
from hopyard_hookspecs import Finding, Hazard, Policy, Safeguard, Watch, hookimpl

SINE = Hazard("TS001", "sine", remedy="use a cosine")


class Guard:
    @hookimpl
    def hopyard_register_safeguards(self) -> Iterator[Safeguard]:
        check = {torch.sin: lambda call: Finding("TS001", "sine")}
        yield Safeguard("test-sine", (SINE,), watch=lambda: Watch(functions=check))


def session(**options: object) -> hopyard.Session:
    return hopyard.Session(discover=False, plugins=[Guard()], **options)


def test_a_file_states_policies(tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text('[tool.hopyard.policy]\nTS001 = "record"\nHY101 = "ignore"\n')
    assert read_policies(file) == {"TS001": Policy.RECORD, "HY101": Policy.IGNORE}
    file.write_text('[project]\nname = "mine"\n')
    assert read_policies(file) == {}


def test_the_nearest_project_file_counts(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[tool.hopyard.policy]\nTS001 = "warn"\n')
    assert find_policies(inner) == {"TS001": Policy.WARN}
    (tmp_path / "a" / "pyproject.toml").write_text("")
    assert find_policies(inner) == {}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[tool.hopyard.policy]\nTS001 = "wran"\n', "'warn'"),
        ("[tool.hopyard.policy]\nTS001 = 3\n", "'3'"),
        ('[tool.hopyard]\npolicy = "warn"\n', "tool.hopyard.policy"),
        ("[tool.hopyard.policy\n", "pyproject.toml"),
    ],
)
def test_what_is_no_policy_is_refused(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as raised:
        read_policies(file)
    assert told in str(raised.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        read_policies(tmp_path / "nowhere.toml")


def test_a_session_has_policies_and_a_capture_may_differ() -> None:
    lenient = session(policy={"TS001": Policy.RECORD})
    (finding,) = lenient.capture(torch.sin, (torch.ones(2),)).findings
    assert finding.policy is Policy.RECORD
    with pytest.raises(SafeguardError):
        lenient.capture(torch.sin, (torch.ones(2),), policy={"TS001": Policy.ERROR})
    with pytest.raises(SafeguardError):
        session().capture(torch.sin, (torch.ones(2),))


def test_an_unknown_code_is_refused_when_the_session_is_made() -> None:
    with pytest.raises(UnknownNameError) as raised:
        session(policy={"TS0O1": Policy.WARN})
    assert raised.value.closest == "TS001"
    with pytest.raises(UnknownNameError) as raised:
        session(policy={"HY113": Policy.WARN})
    assert raised.value.distribution == "hopyard-autograd-fidelity"
