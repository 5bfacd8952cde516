"""The higher-order operators of this process.

torch keeps one flat, process-wide registry in which a second definition silently replaces the
first. This one is append-only and locked; it refuses a conflict before torch's is touched.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

from importlib_metadata import packages_distributions, version

from hopyard_hookspecs import Hop, Provider

from .._torch.dispatch import higher_order_operators
from ..errors import DuplicateNameError, UnknownNameError
from ._operator import Operator
from ._rules import install

_lock = threading.RLock()
_operators: dict[str, Operator] = {}


def bind(definition: Hop) -> Operator:
    """Return the operator of `definition`; the same one each time.

    Raises:
        DuplicateNameError: The name belongs to another definition, or to torch.
        OptionError: The definition has a rule for a surface that does not exist.
    """
    with _lock:
        known = _operators.get(definition.name)
        if known is None:
            return _create(definition)
        if known.definition is definition:
            return known
        claimants = (provider_of(known.definition), provider_of(definition))
        raise DuplicateNameError("higher-order operator", definition.name, claimants)


def bound(name: str) -> Operator:
    """Return the operator bound under `name` in this process.

    Raises:
        UnknownNameError: Nobody bound one.
    """
    operator = _operators.get(name)
    if operator is None:
        raise UnknownNameError("higher-order operator", name, _operators)
    return operator


def provider_of(definition: Hop) -> Provider:
    """Return the distribution that a definition comes from, as far as its code tells."""
    module = _defining_module(definition)
    package = module.partition(".")[0]
    distributions = packages_distributions().get(package, [])
    slug = definition.name.partition("__")[0].replace("_", "-")
    if not distributions:
        return Provider(slug, "unpackaged", "unknown")
    return Provider(slug, distributions[0], version(distributions[0]))


def _create(definition: Hop) -> Operator:
    if definition.name in higher_order_operators:
        torch_itself = Provider("torch", "torch", version("torch"))
        raise DuplicateNameError(
            "higher-order operator", definition.name, (torch_itself, provider_of(definition))
        )
    operator = Operator(definition)
    try:
        install(operator)
    except BaseException:
        del higher_order_operators[definition.name]
        raise
    _operators[definition.name] = operator
    return operator


def _defining_module(definition: Hop) -> str:
    rules: list[Callable[..., object]] = [definition.eager, *definition.rules.values()]
    for rule in rules:
        module = getattr(rule, "__module__", "") or ""
        if module in sys.modules and not module.startswith("hopyard_hookspecs"):
            return module
    return definition.name.partition("__")[0]
