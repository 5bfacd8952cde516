"""The plugins that are installed, found without importing any of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import importlib_metadata
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from hopyard.errors import PluginError
from hopyard_hookspecs import ENTRY_POINT_GROUP, Provider

from ._describe import describe

HOOKSPECS: Final = "hopyard-hookspecs"

_NAME = re.compile(r"\s*([A-Za-z0-9._-]+)")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plugin as its distribution's metadata announces it.

    Attributes:
        slug: The name of the entry point, which is the plugin's name.
        distribution: The distribution that announces it, "unknown" if its metadata does not say.
        version: That distribution's version, "unknown" if its metadata does not say.
        entry_point: What is imported, as `"package.module"` or `"package.module:attribute"`.
        requirement: Versions of hopyard-hookspecs that the distribution accepts; empty means any.
        problem: What is wrong with the metadata, if something is.
    """

    slug: str
    distribution: str
    version: str
    entry_point: str
    requirement: SpecifierSet
    problem: str = ""

    @property
    def provider(self) -> Provider:
        """Who answers for what the plugin does."""
        return Provider(self.slug, self.distribution, self.version)


def find() -> tuple[Candidate, ...]:
    """Return every announced plugin, sorted by slug; two distributions may announce the same slug.

    Raises:
        PluginError: A distribution's list of entry points cannot be read at all.
    """
    try:
        announced = importlib_metadata.entry_points(group=ENTRY_POINT_GROUP)
    except Exception as cause:
        culprits = ", ".join(_unreadable()) or "a distribution"
        raise PluginError(
            f"the entry points of {culprits} cannot be read: {describe(cause)}",
            hint="install it again",
            stage="find",
        ) from cause
    return tuple(
        sorted(map(_candidate, announced), key=lambda each: (each.slug, each.distribution))
    )


def _candidate(entry_point: importlib_metadata.EntryPoint) -> Candidate:
    distribution = entry_point.dist
    assert distribution is not None, "entry points that were looked up know their distribution"
    requirement, problem = SpecifierSet(), ""
    name = version = "unknown"
    try:
        name, version = distribution.name, distribution.version
        requirement = _requirement(distribution.requires or ())
    except (LookupError, OSError) as cause:
        problem = f"its metadata is incomplete: {describe(cause)}"
    except InvalidRequirement as cause:
        problem = f"its requirement on {HOOKSPECS} cannot be read: {cause}"
    return Candidate(entry_point.name, name, version, entry_point.value, requirement, problem)


def _requirement(lines: Iterable[str]) -> SpecifierSet:
    """Combine the requirements on hopyard-hookspecs that apply here; others are not even parsed."""
    combined = SpecifierSet()
    for line in lines:
        name = _NAME.match(line)
        if name is None or canonicalize_name(name[1]) != HOOKSPECS:
            continue
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate():
            combined &= requirement.specifier
    return combined


def _unreadable() -> Iterable[str]:
    for distribution in importlib_metadata.distributions():
        try:
            _ = distribution.entry_points
        except Exception:  # noqa: BLE001 - whatever it is, the caller reports it
            yield distribution.name
