"""What becomes of safeguards' findings: policies by hazard code, in code and in files.

A file says it in TOML: in `pyproject.toml`, or any other file, under `tool.hopyard.policy`.

.. code-block:: toml

    [tool.hopyard.policy]
    HY101 = "warn"
    HY113 = "ignore"
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from hopyard_hookspecs import Hazard, Policy, Provider, Safeguard

from .errors import DuplicateNameError, UnknownNameError, UsageError
from .plugins import Registered, distribution_for

_TABLE = ("tool", "hopyard", "policy")


def read_policies(path: str | PathLike[str]) -> dict[str, Policy]:
    """Return the policies that a TOML file states under `tool.hopyard.policy`; none if it has none.

    Example::

        session = hopyard.Session(policy=read_policies("pyproject.toml"))

    Raises:
        UsageError: The file cannot be read, or states something else than policies.
    """
    try:
        with Path(path).open("rb") as stream:
            content: Any = tomllib.load(stream)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"policies cannot be read from {path}: {error}", stage="policies"
        ) from error
    for key in _TABLE:
        content = content.get(key, {})
        if not isinstance(content, dict):
            raise UsageError(
                f"{'.'.join(_TABLE)} in {path} is not a table",
                hint=f'write [{".".join(_TABLE)}], then lines like HY101 = "warn"',
                stage="policies",
            )
    return {code: parse_policy(name) for code, name in content.items()}


def find_policies(folder: str | PathLike[str] = ".") -> dict[str, Policy]:
    """Return the policies of the nearest `pyproject.toml` in a folder or above; none without one.

    Raises:
        UsageError: The file states something else than policies.
    """
    here = Path(folder).resolve()
    for each in (here, *here.parents):
        file = each / "pyproject.toml"
        if file.is_file():
            return read_policies(file)
    return {}


def parse_policy(name: object) -> Policy:
    """Return the policy of that name.

    Raises:
        UnknownNameError: There is none.
    """
    names = [policy.value for policy in Policy]
    if name in names:
        return Policy(name)
    raise UnknownNameError("policy", str(name), names)


def hazards_of(safeguards: Iterable[Registered[Safeguard]]) -> dict[str, Hazard]:
    """Return every hazard that `safeguards` may report, by code.

    Raises:
        DuplicateNameError: Two safeguards mean different hazards by one code.
    """
    hazards: dict[str, Hazard] = {}
    declared_by: dict[str, Provider] = {}
    for each in safeguards:
        for hazard in each.value.hazards:
            if hazards.setdefault(hazard.code, hazard) != hazard:
                claimants = (declared_by[hazard.code], each.provider)
                raise DuplicateNameError("hazard", hazard.code, claimants)
            declared_by.setdefault(hazard.code, each.provider)
    return hazards


def check_policies(policies: Mapping[str, Policy], hazards: Mapping[str, Hazard]) -> None:
    """Refuse policies for codes that no safeguard knows, and what is no policy.

    Raises:
        UnknownNameError: No safeguard of the session reports a code.
        UsageError: A policy is something else.
    """
    check_codes(policies, hazards)
    for code, policy in policies.items():
        if not isinstance(policy, Policy):
            raise UsageError(
                f"the policy for {code} is {policy!r}",
                hint=f"write one of {', '.join(map(str, Policy))}",
                stage="capture",
            )


def check_codes(codes: Iterable[str], hazards: Mapping[str, Hazard]) -> None:
    """Refuse codes that no safeguard of a session knows.

    Raises:
        UnknownNameError: There is such a code; the message says what would provide it.
    """
    for code in codes:
        if code not in hazards:
            distribution = distribution_for("hazard", code)
            raise UnknownNameError("hazard", code, hazards, distribution=distribution)


def check_allowance(codes: Iterable[str], hazards: Mapping[str, Hazard]) -> None:
    """Refuse to allow what nobody ever reports; what a plugin that is not installed would is fine.

    Raises:
        UnknownNameError: There is such a code.
    """
    check_codes((code for code in codes if not distribution_for("hazard", code)), hazards)
