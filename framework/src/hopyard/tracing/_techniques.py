"""The techniques that make tracing fast, each of which can be switched off to look for a fault.

None of them changes a graph; a test compares graphs with each switched off.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from typing import Final

from ..errors import UnknownNameError

VARIABLE: Final = "HOPYARD_TRACING_WITHOUT"
"""The environment variable that lists techniques to switch off, separated by commas."""


@dataclass(frozen=True, slots=True)
class Techniques:
    """Which techniques a trace uses.

    Attributes:
        memory: Make again what an operator returned for operands of the same kind.
        direct_inputs: Make plain inputs fake without the fake mode's converter.
        direct_propagation: Find what a simple operator returns without the fake mode.
        direct_values: Make the snapshots in node metadata without a trip through the dispatcher.
        single_memory: Switch the fake mode's own cache off meanwhile.
        arithmetic: Remember what is computed with symbolic numbers.
        lazy_code: Leave the generation of Python code until somebody reads or runs it.
    """

    memory: bool = True
    direct_inputs: bool = True
    direct_propagation: bool = True
    direct_values: bool = True
    single_memory: bool = True
    arithmetic: bool = True
    lazy_code: bool = True

    @classmethod
    def chosen(cls) -> Techniques:
        """Return all techniques but those that the environment variable names.

        Raises:
            UnknownNameError: It names another.
        """
        listed = os.environ.get(VARIABLE, "")
        return cls().without(*[name.strip() for name in listed.split(",") if name.strip()])

    def without(self, *names: str) -> Techniques:
        """Return these techniques with some switched off.

        Raises:
            UnknownNameError: There is no technique of such a name.
        """
        if not names:
            return self
        known = {field.name for field in fields(self)}
        for name in names:
            if name not in known:
                raise UnknownNameError("tracing technique", name, known)
        return replace(self, **dict.fromkeys(names, False))
