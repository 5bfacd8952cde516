"""The modes of the pre-dispatch key, for each thread its own.

torch keeps them in one variable for all threads: two captures at the same time would find each
other's mode. The first capture above autograd puts a variable of the thread in its place, for good;
it answers as torch's does.
"""

from __future__ import annotations

import threading
from typing import Any

from ..._torch import predispatch
from ..._torch.dispatch import DispatchKey
from ..._torch.predispatch import PreDispatchModes, is_dispatch_key_included


class ModesOfThread(threading.local):
    """What torch asks for the modes of the pre-dispatch key.

    Args:
        shared: What it was asked for before. A thread that has modes there, which the thread's
            dispatch keys tell, keeps them there.
    """

    def __init__(self, shared: Any) -> None:
        entered = is_dispatch_key_included(DispatchKey.PreDispatch)
        self._modes: Any = shared if entered else PreDispatchModes()

    @property
    def _schema_check_mode(self) -> Any:
        return self._modes._schema_check_mode

    @_schema_check_mode.setter
    def _schema_check_mode(self, mode: Any) -> None:
        self._modes._schema_check_mode = mode

    def set(self, index: int, mode: Any) -> None:
        """Fill or empty a slot."""
        self._modes.set(index, mode)

    def get(self, index: int) -> Any:
        """Return the mode in a slot, or None."""
        return self._modes.get(index)

    def count(self) -> int:
        """Return how many modes there are."""
        return int(self._modes.count())


_lock = threading.Lock()


def separate_threads() -> None:
    """Give each thread its own modes, unless that has been done."""
    with _lock:
        modes = predispatch.pre_dispatch_modes()
        if not isinstance(modes, ModesOfThread):
            predispatch.set_pre_dispatch_modes(ModesOfThread(modes))
