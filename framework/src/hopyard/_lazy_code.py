"""Graph modules whose code is generated when somebody reads it, and compiled when it is run."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from threading import RLock
from typing import Any, ClassVar

from torch.fx import Graph, Node
from torch.fx.graph import PythonCode

from ._torch.graphs import LazyGraphModule as TorchLazyGraphModule
from ._torch.graphs import fx_settings

_writing = RLock()
"""Held while code is generated or compiled: torch's generator changes the nodes meanwhile."""


class _LateForward:
    """Stands for `forward` on a graph module's class, and is compiled by who asks a module for it.

    Torch's lazy modules have a function in its place that compiles and calls the module again: what
    it takes cannot be read, hooks run twice, and Dynamo does not look into it.
    """

    def __get__(self, module: LazyGraphModule | None, kind: type) -> Any:
        if module is None:
            return self
        try:
            module.compile_code()
        except AttributeError as error:
            # A module that is asked for an attribute takes this for a missing one.
            raise RuntimeError(f"the code of a graph cannot be generated: {error}") from error
        return module.forward


class LazyGraphModule(TorchLazyGraphModule):
    """A graph module whose code is generated when somebody reads it, and compiled when it is run.

    Torch's does both at once, which takes twice as long for who only reads. In all else they are
    alike: code that was read is the code that runs, until `recompile` says that the graph has
    changed. Measured by `make bench-passes`.
    """

    # Each graph module has a class of its own.
    _generated: ClassVar[PythonCode | None] = None
    _lazy_forward = forward = _LateForward()

    @classmethod
    def recompile(cls) -> None:  # type: ignore[override]
        """Let the code be generated anew when it is needed."""
        cls._generated = None
        super().recompile()

    @property
    def code(self) -> str:
        """The code, generated now unless it was before."""
        with _writing:
            # For the profiler torch writes into the code when it compiles that.
            if not self._needs_recompile() or fx_settings.enrich_profiler_metadata:
                return super().code
            return self._generate().src

    def real_recompile(self) -> None:
        """Compile the code, unless it is compiled."""
        with _writing:
            if not self._needs_recompile() or fx_settings.enrich_profiler_metadata:
                super().real_recompile()
                return
            generated, graph = self._generate(), self.graph
            graph.__dict__["python_code"] = lambda **_: generated
            try:
                self._real_recompile()
            finally:
                del graph.__dict__["python_code"]
                type(self)._generated = None

    def compile_code(self) -> None:
        """Do as :meth:`real_recompile`, also while Dynamo traces."""
        self.real_recompile()

    compile_code._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def _generate(self) -> PythonCode:
        kind = type(self)
        if kind._generated is None:
            with _places_kept(self.graph):
                kind._generated = self.graph.python_code(root_module="self")
        return kind._generated


@contextmanager
def _places_kept(graph: Graph) -> Generator[None, None, None]:
    """Let nodes of a graph keep their places in its look-up table, whatever is set on them.

    For as long as torch's generator of code works it gives every node another `__repr__`, which
    would move each node out of the table and in again, twice.
    """
    table = graph._find_nodes_lookup_table
    graph._find_nodes_lookup_table = _Unchanging(table)  # type: ignore[assignment]
    try:
        yield
    finally:
        graph._find_nodes_lookup_table = table


class _Unchanging:
    """A look-up table that says of every node that it is in none, so that setting moves none."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def __contains__(self, node: Node) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)
