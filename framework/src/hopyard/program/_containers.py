"""Lists, dictionaries and sets whose content a capture must not change."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

_Items = tuple[tuple[Any, Any], ...]


class Contents:
    """What the containers within a value hold, however deep.

    Args:
        value: Any value; only Python's own containers in it, and those derived from them, are read.
    """

    def __init__(self, value: Any) -> None:
        self._kept = [(container, _items(container)) for container in _containers(value)]

    @property
    def changed(self) -> bool:
        """Whether one of the containers holds other objects than it did, or in another order."""
        return any(not _same(_items(container), items) for container, items in self._kept)

    def restore(self) -> bool:
        """Put back what the containers held; return whether a tensor had been put in."""
        added = False
        for container, items in self._kept:
            now = _items(container)
            if _same(now, items):
                continue
            before = {id(item) for _, item in items}
            added |= any(isinstance(item, Tensor) and id(item) not in before for _, item in now)
            container.clear()
            if isinstance(container, dict | set):
                container.update(dict(items) if isinstance(container, dict) else dict(items).keys())
            else:
                container.extend(item for _, item in items)
        return added


def _containers(value: Any) -> Iterator[Any]:
    """Yield the containers within `value`, each once."""
    seen: set[int] = set()
    pending = [value]
    while pending:
        current = pending.pop()
        if not isinstance(current, dict | list | set | deque | tuple) or id(current) in seen:
            continue
        seen.add(id(current))
        if not isinstance(current, tuple):
            yield current
        pending.extend(current.values() if isinstance(current, dict) else current)


def _items(container: Any) -> _Items:
    if isinstance(container, dict):
        return tuple(container.items())
    if isinstance(container, set):
        return tuple((item, item) for item in container)
    return tuple(enumerate(container))


def _same(first: Iterable[tuple[Any, Any]], second: Iterable[tuple[Any, Any]]) -> bool:
    one, other = list(first), list(second)
    return len(one) == len(other) and all(
        value is its_value and (key is its_key or key == its_key)
        for (key, value), (its_key, its_value) in zip(one, other, strict=True)
    )
