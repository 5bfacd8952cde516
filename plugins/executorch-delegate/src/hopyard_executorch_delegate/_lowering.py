"""Lowering the partitions of a program: equal ones once, and several at the same time."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch

from hopyard.partitioning import Subgraph, content_of
from hopyard_hookspecs import Lowered

from ._baked import digests_of
from ._cache import Cache, key_of
from ._elsewhere import Elsewhere
from ._guarded import GuardedBackend
from ._lowered_module import LoweredModule
from ._values import Content

Way: TypeAlias = Literal["lowered", "shared", "cached"]
"""How a partition came by its bytes: from the backend, an equal partition, or the cache."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One more partition is lowered.

    Attributes:
        done: How many are.
        total: How many there are.
        backend: The backend's name.
        partition: Number of the partition in the program, from 0.
        operators: How many operators it stands for.
        seconds: How long it took.
        way: How it came by its bytes.
    """

    done: int
    total: int
    backend: str
    partition: int
    operators: int
    seconds: float
    way: Way


@dataclass(frozen=True, slots=True)
class Job:
    """A partition and who lowers it.

    Attributes:
        index: Its number in the program.
        subgraph: The partition.
        backend: Who lowers it.
    """

    index: int
    subgraph: Subgraph
    backend: GuardedBackend

    @property
    def where(self) -> str:
        """How errors call it."""
        nodes, size = self.subgraph.partition.nodes, self.subgraph.partition.size
        return f"partition {self.index} ({size} operators, {nodes[0].name} to {nodes[-1].name})"


@dataclass(frozen=True, slots=True)
class _Made:
    """What came of a partition: its bytes, and how long that took."""

    lowered: Lowered
    baked: dict[int, str]
    seconds: float
    way: Way


def lower_all(
    jobs: Sequence[Job],
    *,
    cache: Cache | None = None,
    workers: int = 1,
    progress: Callable[[Progress], None] | None = None,
) -> list[LoweredModule]:
    """Lower partitions and return them as modules, in order.

    Args:
        jobs: The partitions.
        cache: Where lowered partitions are looked up and kept.
        workers: How many partitions are lowered at once where their backends allow it.
        progress: Called in this thread as each is done.

    Raises:
        DelegationError: A backend failed; of several failures, the one of the first partition.
    """
    made_by = {job.backend.name: job.backend.made_by() for job in jobs}
    keys = [_key(job, made_by[job.backend.name]) for job in jobs]
    first: dict[str, int] = {}
    for position, key in enumerate(keys):
        if key is not None:
            first.setdefault(key, position)
    results: dict[int, _Made] = {}

    def finished(position: int, made: _Made) -> None:
        results[position] = made
        job = jobs[position]
        if progress is not None:
            size = job.subgraph.partition.size
            name = job.backend.name
            progress(
                Progress(len(results), len(jobs), name, job.index, size, made.seconds, made.way)
            )

    with _Pools(workers) as pools:
        waiting: dict[int, Callable[[], _Made]] = {}
        for position, (job, key) in enumerate(zip(jobs, keys, strict=True)):
            if key is not None and first[key] != position:
                continue
            found = _from_cache(job, cache, key)
            if found is not None:
                finished(position, found)
            else:
                waiting[position] = pools.submit(job)
        for position, wait in waiting.items():
            made = wait()
            key = keys[position]
            if cache is not None and key is not None and _is_shareable(jobs[position], made):
                content = _content(made)
                cache.put(key, content, jobs[position].where)
            finished(position, made)
    for position, (job, key) in enumerate(zip(jobs, keys, strict=True)):
        if position in results:
            continue
        assert key is not None
        source = results[first[key]]
        if _is_shareable(jobs[first[key]], source):
            finished(position, _as_partition(_content(source), job, 0.0, "shared"))
        else:
            finished(position, _lower(job))
    return [_module(job, results[position]) for position, job in enumerate(jobs)]


class _Pools:
    """Threads and processes, started when the first partition is for them."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._stack = contextlib.ExitStack()
        self._threads: Executor | None = None
        self._processes: Elsewhere | None = None

    def __enter__(self) -> _Pools:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def submit(self, job: Job) -> Callable[[], _Made]:
        """Have a partition lowered where its backend allows; return what waits for it."""
        concurrency = job.backend.declared.concurrency if self._workers > 1 else "none"
        if concurrency == "threads":
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self._workers, "hopyard-lowering")
                self._stack.callback(self._threads.shutdown, cancel_futures=True)
            return self._threads.submit(_lower_in_thread, job, torch.is_grad_enabled()).result
        if concurrency == "processes":
            if self._processes is None:
                self._processes = self._stack.enter_context(Elsewhere(self._workers))
            future = self._processes.submit(job.subgraph.graph_module, job.backend)
            if future is not None:
                return functools.partial(_come_back, job, future)
        return functools.partial(_lower, job)


def _come_back(job: Job, future: Future[tuple[Content, float]]) -> _Made:
    """Wait for a partition that another process lowers."""
    try:
        content, seconds = future.result()
    except Exception as error:
        problem = str(error).removeprefix(f"the backend {job.backend.name!r} ")
        raise job.backend.failed(
            f"failed in another process when lowering {job.where}: {problem}", job.index
        ) from error
    return _as_partition(content, job, seconds, "lowered")


def _lower_in_thread(job: Job, grad_enabled: bool) -> _Made:
    with torch.set_grad_enabled(grad_enabled):
        return _lower(job)


def _lower(job: Job) -> _Made:
    start = time.perf_counter()
    lowered = job.backend.lower(job.subgraph.graph_module, job.index, job.where)
    try:
        baked = digests_of(lowered)
    except ValueError as error:
        raise job.backend.failed(
            f"lowered {job.where} to something whose baked-in operands are wrong: {error}",
            job.index,
        ) from error
    return _Made(lowered, baked, time.perf_counter() - start, "lowered")


def _key(job: Job, made_by: str) -> str | None:
    declared = job.backend.declared
    if not declared.cacheable:
        return None
    content = content_of(job.subgraph.graph_module, values=declared.bakes_state)
    if content is None:
        return None
    return key_of(content, declared.name, made_by, job.backend.options)


def _from_cache(job: Job, cache: Cache | None, key: str | None) -> _Made | None:
    if cache is None or key is None:
        return None
    start = time.perf_counter()
    content = cache.get(key, job.backend.name, job.where)
    if content is None:
        return None
    return _as_partition(content, job, time.perf_counter() - start, "cached")


def _is_shareable(job: Job, made: _Made) -> bool:
    """Say whether the reference graph is the partition, so that an equal one has equal bytes."""
    return made.lowered.original_module is job.subgraph.graph_module or made.way != "lowered"


def _content(made: _Made) -> Content:
    lowered = made.lowered
    return Content(
        lowered.backend_id,
        lowered.processed_bytes,
        lowered.compile_specs,
        lowered.named_data,
        lowered.meta,
        made.baked,
    )


def _as_partition(content: Content, job: Job, seconds: float, way: Way) -> _Made:
    """Return bytes as those of a partition, which they were or could have been made from."""
    graph_module = job.subgraph.graph_module
    names = [node.name for node in graph_module.graph.find_nodes(op="placeholder")]
    lowered = Lowered(
        graph_module,
        content.backend_id,
        content.processed_bytes,
        content.compile_specs,
        content.named_data,
        content.meta,
        tuple(names[position] for position in content.baked),
    )
    return _Made(lowered, dict(content.baked), seconds, way)


def _module(job: Job, made: _Made) -> LoweredModule:
    return LoweredModule(
        made.lowered, job.backend.implementation, name=f"partition {job.index}", baked=made.baked
    )
