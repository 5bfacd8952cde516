"""Which distribution a definition comes from."""

from __future__ import annotations

import sys
from collections.abc import Callable

from importlib_metadata import packages_distributions, version

from hopyard_hookspecs import Hop, Provider


def provider_of(definition: Hop) -> Provider:
    """Return the distribution that a definition comes from, as far as its code tells."""
    module = _defining_module(definition)
    package = module.partition(".")[0]
    distributions = packages_distributions().get(package, [])
    slug = definition.name.partition("__")[0].replace("_", "-")
    if not distributions:
        return Provider(slug, "unpackaged", "unknown")
    return Provider(slug, distributions[0], version(distributions[0]))


def _defining_module(definition: Hop) -> str:
    rules: list[Callable[..., object]] = [definition.eager, *definition.rules.values()]
    for rule in rules:
        module = getattr(rule, "__module__", "") or ""
        if module in sys.modules and not module.startswith("hopyard_hookspecs"):
            return module
    return definition.name.partition("__")[0]
