"""Which passes must come before or after which others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from hopyard.errors import OrderError
from hopyard.plugins import Registered
from hopyard_hookspecs import Pass

from ._items import Item, Regions, Step


class _Placed(NamedTuple):
    """A pass that runs, with the groups for bodies of regions that it stands in."""

    name: str
    regions: tuple[int, ...]


def check_order(items: Iterable[Item], passes: Mapping[str, Registered[Pass]]) -> None:
    """Check that each pass that runs comes before and after those it says.

    A pass that runs on bodies of regions only does not count for a pass that runs on whole
    programs. Of a group that is repeated, the first round counts.

    Raises:
        OrderError: A pass that must run does not, or not where it must.
    """
    placed = list(_placed(items, ()))
    for index, each in enumerate(placed):
        registered = passes[each.name]
        declared = registered.value
        earlier = {other.name for other in placed[:index] if _covers(other, each)}
        later = {other.name for other in placed[index + 1 :] if _covers(other, each)}
        for name in declared.must_run_after:
            if name not in earlier:
                raise _misplaced(registered, name, "before", present=name in later)
        for name in declared.must_run_before:
            if name not in later:
                raise _misplaced(registered, name, "after", present=name in earlier)
        for name in declared.runs_after:
            if name in later:
                raise _misplaced(registered, name, "before", present=True)
        for name in declared.runs_before:
            if name in earlier:
                raise _misplaced(registered, name, "after", present=True)


def _placed(items: Iterable[Item], regions: tuple[int, ...]) -> Iterator[_Placed]:
    for item in items:
        if not item.enabled:
            continue
        if isinstance(item, Step):
            yield _Placed(item.name, regions)
        else:
            inside = (*regions, id(item)) if isinstance(item, Regions) else regions
            yield from _placed(item.steps, inside)


def _covers(other: _Placed, each: _Placed) -> bool:
    """Say whether `other` runs on everything that `each` runs on."""
    return each.regions[: len(other.regions)] == other.regions


def _misplaced(
    registered: Registered[Pass], other: str, where: str, *, present: bool
) -> OrderError:
    name = registered.value.name
    problem = "comes on the wrong side" if present else "is not in the pipeline"
    return OrderError(
        f"pass {name!r} needs {other!r} to run {where} it, which {problem}",
        hint=f"let {other!r} run {where} {name!r}",
        plugin=registered.provider,
        stage=name,
        name=name,
        other=other,
    )
