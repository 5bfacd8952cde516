"""Imports one plugin, if it can work with the hook specifications that are installed."""

from __future__ import annotations

from dataclasses import dataclass

import importlib_metadata

from hopyard.errors import IncompatibleError, PluginError, PluginLoadError
from hopyard_hookspecs import ENTRY_POINT_GROUP

from ._describe import ISOLATED, advice, describe
from ._find import HOOKSPECS, Candidate


@dataclass(frozen=True, slots=True)
class Loaded:
    """A plugin object, or the reason why there is none."""

    plugin: object
    error: PluginError | None = None


def installed_hookspecs() -> str:
    """Return the version of hopyard-hookspecs that is installed.

    Raises:
        PluginError: It was put on the path without its metadata.
    """
    try:
        return importlib_metadata.version(HOOKSPECS)
    except importlib_metadata.PackageNotFoundError as cause:
        raise PluginError(
            f"the installed version of {HOOKSPECS} is not known",
            hint=f"install it with 'pip install {HOOKSPECS}'",
            stage="load",
        ) from cause


def load(candidate: Candidate, hookspecs_version: str) -> Loaded:
    """Import a plugin that accepts `hookspecs_version`; what goes wrong is returned, not raised.

    A plugin whose import calls `sys.exit` counts as failed. An interrupt by the user passes.
    """
    if candidate.problem:
        return Loaded(None, _broken(candidate, candidate.problem))
    if not candidate.requirement.contains(hookspecs_version, prereleases=True):
        return Loaded(None, _incompatible(candidate, hookspecs_version))
    entry_point = importlib_metadata.EntryPoint(
        name=candidate.slug, value=candidate.entry_point, group=ENTRY_POINT_GROUP
    )
    try:
        plugin: object = entry_point.load()
    except ISOLATED as cause:
        error = _broken(candidate, f"importing {candidate.entry_point!r} raised {describe(cause)}")
        error.__cause__ = cause
        return Loaded(None, error)
    return Loaded(plugin)


def _broken(candidate: Candidate, message: str) -> PluginLoadError:
    provider = candidate.provider
    return PluginLoadError(message, hint=advice(provider), plugin=provider, stage="load")


def _incompatible(candidate: Candidate, hookspecs_version: str) -> IncompatibleError:
    return IncompatibleError(
        f"needs {HOOKSPECS}{candidate.requirement}, but {hookspecs_version} is installed",
        hint=f"install another version of {candidate.distribution} or of {HOOKSPECS}, "
        f"or disable the plugin with HOPYARD_PLUGINS_DENY={candidate.slug}",
        plugin=candidate.provider,
        stage="load",
    )
