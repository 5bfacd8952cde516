"""Which plugins take part: the states they can be in, and the lists that let them in or out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from hopyard.errors import IncompatibleError, PluginError, UnknownNameError, UsageError

from ._catalogue import distribution_for

ALLOW_VARIABLE: Final = "HOPYARD_PLUGINS_ALLOW"
DENY_VARIABLE: Final = "HOPYARD_PLUGINS_DENY"


class PluginStatus(StrEnum):
    """What has become of a plugin."""

    ACTIVE = "active"
    """It is loaded and its hooks are called."""
    DISABLED = "disabled"
    """The allow and deny lists keep it out; it was not imported."""
    FAILED = "failed"
    """It could not be loaded, or a hook with which it registers things raised."""
    INCOMPATIBLE = "incompatible"
    """It needs another version of hopyard-hookspecs; it was not imported."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The plugins that may take part.

    Attributes:
        allowed: Slugs of the discovered plugins that may; None means every one.
        denied: Slugs of plugins that may not, whether allowed or not.
    """

    allowed: frozenset[str] | None = None
    denied: frozenset[str] = frozenset()

    def admits(self, slug: str) -> bool:
        """Say whether a discovered plugin takes part; deny wins over allow."""
        return slug not in self.denied and (self.allowed is None or slug in self.allowed)


def select(
    allow: Iterable[str] | None,
    deny: Iterable[str],
    environment: Mapping[str, str],
    known: Collection[str],
) -> Selection:
    """Combine the lists a program gives with those the environment holds.

    A plugin must be on every allow list that exists and on no deny list. An empty `allow` lets no
    discovered plugin in. A variable that is empty counts as unset.

    Raises:
        UnknownNameError: A list names a plugin that is not among `known`.
    """
    allow_lists = [
        _checked("allow", allow, known),
        _checked(ALLOW_VARIABLE, _split(environment.get(ALLOW_VARIABLE, "")), known),
    ]
    deny_lists = [
        _checked("deny", deny, known),
        _checked(DENY_VARIABLE, _split(environment.get(DENY_VARIABLE, "")), known),
    ]
    given = [slugs for slugs in allow_lists if slugs is not None]
    allowed = frozenset.intersection(*given) if given else None
    return Selection(allowed, frozenset().union(*filter(None, deny_lists)))


def classify(error: PluginError | None) -> PluginStatus:
    """Return the state of a plugin that took part and met with `error`."""
    if error is None:
        return PluginStatus.ACTIVE
    if isinstance(error, IncompatibleError):
        return PluginStatus.INCOMPATIBLE
    return PluginStatus.FAILED


def _split(text: str) -> list[str] | None:
    """Return the slugs of a comma-separated list, or None if the text holds nothing at all."""
    if not text.strip():
        return None
    return [slug.strip() for slug in text.split(",") if slug.strip()]


def _checked(
    source: str, slugs: Iterable[str] | None, known: Collection[str]
) -> frozenset[str] | None:
    if slugs is None:
        return None
    if isinstance(slugs, str):
        raise UsageError(
            f"takes a list of plugins, not the string {slugs!r}",
            hint=f"write {source}=[{slugs!r}]",
            stage=source,
        )
    listed = list(slugs)
    for slug in listed:
        if slug not in known:
            raise _unknown(source, slug, known)
    return frozenset(listed)


def _unknown(source: str, slug: str, known: Collection[str]) -> UnknownNameError:
    wanted = source in ("allow", ALLOW_VARIABLE)
    distribution = distribution_for("plugin", slug) if wanted else ""
    error = UnknownNameError("plugin", slug, known, distribution=distribution)
    error.stage = source
    return error
