"""The higher-order operators of this process.

torch keeps one flat, process-wide registry in which a second definition silently replaces the
first. This one is append-only and locked; it refuses a conflict before torch's is touched.
"""

from __future__ import annotations

import threading

from importlib_metadata import version
from torch.fx.node import has_side_effect

from hopyard_hookspecs import Hop, Provider

from .._torch.dispatch import higher_order_operators
from ..errors import DuplicateNameError, UnknownNameError
from ._operator import Operator
from ._provider import provider_of
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
    if definition.writes:
        has_side_effect(operator)
    _operators[definition.name] = operator
    return operator
