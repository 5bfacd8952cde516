"""A capture sees the operators that every machine has, whatever libraries this one has.

With them, an operator may become one of a library's own, which nothing else knows, and sizes are
compared with those from which on a library is worth its while: a program captured with few samples
would refuse many.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .._torch.backends import LIBRARIES


class _Switch:
    """Switches libraries off while anybody wants them off.

    They belong to the process: of captures that overlap in time, the first switches them off and
    the last puts back what was. Eager kernels of other threads do without them meanwhile.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted_by = 0
        self._before: list[bool] = []

    @contextmanager
    def off(self) -> Iterator[None]:
        with self._lock:
            if not self._wanted_by:
                self._before = [is_on() for is_on, _ in LIBRARIES]
            self._wanted_by += 1
            self._set([False] * len(LIBRARIES))
        try:
            yield
        finally:
            with self._lock:
                self._wanted_by -= 1
                if not self._wanted_by:
                    self._set(self._before)

    @staticmethod
    def _set(states: list[bool]) -> None:
        for (is_on, switch), state in zip(LIBRARIES, states, strict=True):
            if is_on() != state:
                switch(state)


without_libraries = _Switch().off
"""Returns a context in which kernels and the rules for fake ones use no library."""
