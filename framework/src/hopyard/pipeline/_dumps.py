"""Writing graphs to files around passes."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Collection
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from hopyard.errors import UsageError, closest_match
from hopyard_hookspecs import PassRecord, PassStep, hookimpl

if TYPE_CHECKING:
    from torch.fx import GraphModule

Moment: TypeAlias = Literal["before", "after", "change", "failure"]

_MOMENTS: Final = ("before", "after", "change", "failure")


class GraphDumps:
    """Writes the graphs of passes to text files; an observer for `session.run(observers=...)`.

    ::

        session.run("decompose,cse,dce", program, observers=[GraphDumps("dumps")])
        # dumps/000-decompose-after.txt, dumps/000-decompose-diff.txt, ...

    Files are numbered in the order in which passes ran. One object may observe several runs and be
    used by several threads.

    Args:
        folder: Where to write; it is made if need be.
        when: `"before"`: the graph that each pass is given. `"after"`: the graph that each
            returned. `"change"`: the same, if it changed the graph, and how the two differ.
            `"failure"`: of a pass that failed, the graph that it was given, the graph that it
            returned or left, how they differ, and the error.

    Raises:
        UsageError: `when` says something else.
    """

    def __init__(
        self, folder: str | PathLike[str], when: Collection[Moment] = ("change", "failure")
    ) -> None:
        self.folder = Path(folder)
        self.when = frozenset([when] if isinstance(when, str) else when)
        for moment in sorted(self.when.difference(_MOMENTS)):
            closest = closest_match(moment, _MOMENTS)
            raise UsageError(
                f"graphs cannot be dumped at {moment!r}",
                hint=f"did you mean {closest!r}?" if closest else f"one of {', '.join(_MOMENTS)}",
                stage="dumps",
            )
        self._numbers = itertools.count()
        self._running = threading.local()

    @hookimpl
    def hopyard_before_pass(self, step: PassStep, graph_module: GraphModule) -> None:
        """Remember the graph, and write it if that is wanted."""
        from ._listing import listing

        self._running.name = f"{next(self._numbers):03}-{_file_name(step)}"
        # A pass may change the graph in place, so what it was is kept as text.
        self._running.given = listing(graph_module)
        if "before" in self.when:
            self._write("before", self._running.given)

    @hookimpl
    def hopyard_after_pass(self, record: PassRecord, graph_module: GraphModule) -> None:
        """Write the graph, and what changed, if that is wanted."""
        from ._listing import listing, listing_diff

        changed = record.modified and "change" in self.when
        if not changed and "after" not in self.when:
            return
        text = listing(graph_module)
        self._write("after", text)
        if changed:
            self._write("diff", listing_diff(self._running.given, text))

    @hookimpl
    def hopyard_after_failed_pass(
        self, step: PassStep, graph_module: GraphModule, error: BaseException
    ) -> None:
        """Write what there is of the graph, and the error."""
        from ._listing import listing, listing_diff

        if "failure" not in self.when:
            return
        text = listing(graph_module)
        self._write("given", self._running.given)
        self._write("failed", f"{text}\n\n# {type(error).__name__}: {error}")
        self._write("diff", listing_diff(self._running.given, text))

    def _write(self, what: str, text: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{self._running.name}-{what}.txt"
        path.write_text(f"{text}\n", encoding="utf-8")


def _file_name(step: PassStep) -> str:
    round_text = f"-round{step.round}" if step.round > 1 else ""
    region = f"-in-{re.sub(r'[^A-Za-z0-9_.]', '_', step.region)}" if step.region else ""
    return f"{step.name}{round_text}{region}"
