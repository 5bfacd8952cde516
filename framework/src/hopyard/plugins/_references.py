"""Objects that plugins name instead of importing."""

from __future__ import annotations

import importlib
import re

from hopyard.errors import PluginLoadError, closest_match
from hopyard_hookspecs import Provider, Reference

from ._describe import ISOLATED, describe

_REFERENCE = re.compile(r"(?P<module>\w+(\.\w+)*):(?P<attributes>\w+(\.\w+)*)")


def resolve(reference: Reference, provider: Provider | None = None) -> object:
    """Return the object that a plugin refers to, importing its module if need be.

    Args:
        reference: `"package.module:attribute"`, with dots if nested, or the object itself.
        provider: Who gave the reference.

    Raises:
        PluginLoadError: The text has another form, the import fails, or the attribute is missing.
    """
    if not isinstance(reference, str):
        return reference
    parts = _REFERENCE.fullmatch(reference)
    if parts is None:
        raise PluginLoadError(
            f"{reference!r} names nothing that can be imported",
            hint="write package.module:attribute",
            plugin=provider,
            stage="import",
        )
    try:
        found: object = importlib.import_module(parts["module"])
    except ISOLATED as cause:
        raise PluginLoadError(
            f"importing {parts['module']!r} for {reference!r} raised {describe(cause)}",
            plugin=provider,
            stage="import",
        ) from cause
    for attribute in parts["attributes"].split("."):
        found = _attribute(found, attribute, reference, provider)
    return found


def _attribute(owner: object, name: str, reference: str, provider: Provider | None) -> object:
    try:
        return getattr(owner, name)
    except ISOLATED as cause:
        closest = closest_match(name, dir(owner))
        raise PluginLoadError(
            f"looking up {name!r} for {reference!r} raised {describe(cause)}",
            hint=f"did you mean {closest!r}?" if closest else "",
            plugin=provider,
            stage="import",
        ) from cause
