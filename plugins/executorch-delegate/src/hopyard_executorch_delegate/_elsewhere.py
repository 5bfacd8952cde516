"""Lowering in other processes.

A partition travels as a program file, which loading does not execute, and comes back as bytes.
"""

from __future__ import annotations

import itertools
import multiprocessing
import pickle
import shutil
import tempfile
import time
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.fx import GraphModule

import hopyard
from hopyard.errors import HopyardError
from hopyard.partitioning import export_partition, with_state
from hopyard.plugins import resolve
from hopyard_hookspecs import Backend, Provider

from ._baked import digests_of
from ._guarded import GuardedBackend
from ._values import Content


class Elsewhere:
    """Processes that lower partitions.

    Args:
        workers: How many there are at most.
    """

    def __init__(self, workers: int) -> None:
        # A fork of a process with threads may hang; a new process cannot.
        self._pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
        self._folder = Path(tempfile.mkdtemp(prefix="hopyard-lowering-"))
        self._numbers = itertools.count()

    def __enter__(self) -> Elsewhere:
        return self

    def __exit__(self, *error: Any) -> None:
        self._pool.shutdown(cancel_futures=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def submit(
        self, partition: GraphModule, backend: GuardedBackend
    ) -> Future[tuple[Content, float]] | None:
        """Have a partition lowered; None if it cannot travel, or its backend cannot."""
        placeholders = partition.graph.find_nodes(op="placeholder")
        if not all(isinstance(node.meta.get("val"), Tensor) for node in placeholders):
            return None
        path = self._folder / f"{next(self._numbers)}.pt2"
        try:
            session = hopyard.Session(discover=False)
            session.from_exported_program(export_partition(partition)).save(path)
        except HopyardError:
            return None
        names = [node.name for node in placeholders]
        travelling = (backend.declared, backend.provider, dict(backend.options))
        try:
            pickle.dumps(travelling)
        except (pickle.PicklingError, AttributeError, TypeError):
            return None
        return self._pool.submit(lower_file, str(path), names, travelling)


def lower_file(
    path: str, names: list[str], backend: tuple[Backend, Provider, dict[str, Any]]
) -> tuple[Content, float]:
    """Lower a partition that was written to a file; called in the other process.

    Args:
        path: The file.
        names: The partition's placeholders, in order.
        backend: Who lowers it: what its plugin says of it, the plugin, and the options.
    """
    declared, provider, options = backend
    factory: Any = resolve(declared.implementation, provider)
    guarded = GuardedBackend(declared, provider, factory(), options)
    partition = with_state(hopyard.Session(discover=False).load(path))
    _reorder(partition, names)
    start = time.perf_counter()
    lowered = guarded.lower(partition, 0, "the partition")
    content = Content(
        lowered.backend_id,
        lowered.processed_bytes,
        lowered.compile_specs,
        lowered.named_data,
        lowered.meta,
        digests_of(lowered),
    )
    return content, time.perf_counter() - start


def _reorder(partition: GraphModule, names: list[str]) -> None:
    """Bring placeholders into an order; a file has those of state first."""
    placeholders = {node.name: node for node in partition.graph.find_nodes(op="placeholder")}
    anchor = next(iter(partition.graph.nodes))
    for name in names:
        node = placeholders[name]
        if node is anchor:
            anchor = anchor.next
        else:
            anchor.prepend(node)
    partition.recompile()
