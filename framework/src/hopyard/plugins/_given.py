"""Plugins that a program hands over itself, instead of having them discovered."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import ModuleType
from typing import Final

import importlib_metadata

from hopyard_hookspecs import Provider

UNPACKAGED: Final = "unpackaged"
"""The distribution of a plugin that no distribution contains."""

_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@dataclass(frozen=True, slots=True, eq=False)
class GivenPlugin:
    """A plugin object with the name it goes by, for the `plugins` of a manager.

    Attributes:
        plugin: A module, or an instance of a class, with hook implementations.
        slug: The plugin's name; "" derives it from the module or class.
        distribution: Who provides it; "" means the distribution named as the plugin's top-level
            package, and `"unpackaged"` if none is installed under that name.
        version: The distribution's version; "" means the installed one.
    """

    plugin: object
    slug: str = ""
    distribution: str = ""
    version: str = ""

    @property
    def provider(self) -> Provider:
        """Who answers for what the plugin does."""
        slug = self.slug or slug_of(self.plugin)
        name, version = self.distribution, self.version
        if not name:
            name = _package_of(self.plugin)
            installed = _installed_version(name)
            if not installed:
                return Provider(slug, UNPACKAGED, version or "unknown")
            return Provider(slug, name, version or installed)
        return Provider(slug, name, version or _installed_version(name) or "unknown")


def slug_of(plugin: object) -> str:
    """Derive a plugin's name from its module or class: `hopyard_my_plugin._x` is `my-plugin`."""
    if isinstance(plugin, ModuleType):
        parts = plugin.__name__.split(".")
        public = [part for part in parts if not part.startswith("_")] or parts
        words = public[-1].removeprefix("hopyard_").strip("_")
    else:
        words = (plugin if isinstance(plugin, type) else type(plugin)).__name__.strip("_")
    return _CAPITAL.sub("-", words).replace("_", "-").lower()


def _package_of(plugin: object) -> str:
    """Return the name that a distribution of the plugin's top-level package would have."""
    if isinstance(plugin, ModuleType):
        module = plugin.__name__
    else:
        module = type(plugin).__module__
    return module.partition(".")[0].strip("_").replace("_", "-")


def _installed_version(distribution: str) -> str:
    try:
        return importlib_metadata.version(distribution)
    except (importlib_metadata.PackageNotFoundError, LookupError, ValueError):
        return ""
