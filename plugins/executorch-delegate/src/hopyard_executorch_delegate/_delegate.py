"""Delegation: the pass `delegate`, and the function behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from torch.fx import GraphModule, Node

from hopyard import Program, Session
from hopyard.partitioning import (
    Call,
    Partition,
    Subgraph,
    copy_graph_module,
    outline_together,
    partition,
    with_state,
    without_state,
)
from hopyard_hookspecs import Support

from ._cache import Cache
from ._guarded import GuardedBackend
from ._inline import splice
from ._lowered_module import call_delegate
from ._lowering import Job, Progress, lower_all
from ._report import note_reason


@dataclass(frozen=True)
class Delegate:
    """Replace what backends support by calls of lowered partitions; see :func:`delegate`.

    Args:
        backend: The name of a registered backend, or of several, the first choice first.
        minimum: The number of operators from which a partition is worth lowering.
        whole: Whether one backend must take all operators, as one partition.
        cache: A folder where lowered partitions are kept.
        workers: How many partitions are lowered at once where their backends allow it.

    Raises:
        ValueError: `minimum` or `workers` is less than 1, or a backend is named twice or none is.
    """

    backend: str | tuple[str, ...] = "reference"
    minimum: int = 1
    whole: bool = False
    cache: str | None = None
    workers: int = 1

    def __post_init__(self) -> None:
        _check(_several(self.backend), self.minimum, self.workers)

    def __call__(self, program: Program, session: Session, /) -> Program:
        """Return the program with its partitions lowered.

        Raises:
            UnknownNameError: There is no such backend.
            DelegationError: A backend failed.
        """
        return delegate(
            program,
            session,
            _several(self.backend),
            minimum=self.minimum,
            whole=self.whole,
            cache=self.cache,
            workers=self.workers,
        )


@dataclass(frozen=True)
class Undelegate:
    """Replace lowered partitions by the operators that they stand for.

    A program saved afterwards is one that torch reads without Hopyard.
    """

    def __call__(self, program: Program, session: Session, /) -> Program:
        """Return the program without lowered partitions."""
        graph_module = copy_graph_module(program.graph_module)
        for node in graph_module.graph.find_nodes(op="call_function", target=call_delegate):
            attribute: Any = node.args[0]
            module = getattr(graph_module, str(attribute.target))
            splice(node, module.original_module, list(node.args[1:]))
            if not attribute.users:
                graph_module.graph.erase_node(attribute)
                delattr(graph_module, str(attribute.target))
        graph_module.recompile()
        return program.with_graph(graph_module)


def delegate(
    program: Program,
    session: Session,
    backends: Sequence[str] = ("reference",),
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    minimum: int = 1,
    whole: bool = False,
    cache: str | PathLike[str] | None = None,
    workers: int = 1,
    progress: Callable[[Progress], None] | None = None,
) -> Program:
    """Return a program in which what backends support is calls of lowered partitions.

    The program keeps its calling convention. Parameters are operands of the partitions: nothing is
    copied, and training the original module changes what the delegated program computes. The given
    program is left as it is, whatever a backend does.

    Args:
        program: The program.
        session: Where backends are looked up.
        backends: Names of backends. Each gets what those before it left.
        options: What partitions are lowered with, by the backend's name.
        minimum: The number of operators from which a partition is worth lowering.
        whole: Whether one backend must take all operators, as one partition.
        cache: A folder where lowered partitions are kept, for any number of processes.
        workers: How many partitions are lowered at once where their backends allow it.
        progress: Called as each partition is lowered.

    Raises:
        UnknownNameError: There is no such backend.
        DelegationError: A backend raised, or did something else than it promised; or with `whole`,
            none takes all operators.
        ValueError: `minimum` or `workers` is less than 1, or a backend is named twice or none is.
    """
    _check(backends, minimum, workers)
    options = options or {}
    guarded = [GuardedBackend.of(session, name, options.get(name, {})) for name in backends]
    graph_module = with_state(program)
    answers: dict[Node, dict[str, Support]] = {}
    owners: list[tuple[Partition, GuardedBackend]] = []
    for backend in guarded:
        ask = _asking(backend, answers)
        taken = [each for each, _ in owners]
        if whole:
            found = _whole(graph_module, ask)
        else:
            found = partition(graph_module, ask, minimum=minimum, taken=taken)
        owners += [(each, backend) for each in found]
        if whole and found:
            break
    if whole and not owners:
        raise _nobody_takes_all(guarded, answers)

    def lower(subgraphs: Sequence[Subgraph]) -> list[Call]:
        jobs = [
            Job(index, subgraph, backend)
            for index, (subgraph, (_, backend)) in enumerate(zip(subgraphs, owners, strict=True))
        ]
        folder = None if cache is None else Cache(Path(cache))
        modules = lower_all(jobs, cache=folder, workers=workers, progress=progress)
        for module in modules:
            without_state(module.original_module)
        return [Call(call_delegate, module, "lowered_module") for module in modules]

    delegated = outline_together(graph_module, [each for each, _ in owners], lower)
    _note_reasons(delegated, answers, minimum)
    return program.with_graph(without_state(delegated))


def _several(backend: str | tuple[str, ...]) -> tuple[str, ...]:
    return (backend,) if isinstance(backend, str) else backend


def _check(backends: Sequence[str], minimum: int, workers: int) -> None:
    if minimum < 1:
        raise ValueError(f"minimum must be at least 1, not {minimum}")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    if not backends:
        raise ValueError("at least one backend must be named")
    if len(set(backends)) < len(backends):
        raise ValueError(f"a backend is named twice in {', '.join(backends)}")


def _asking(
    backend: GuardedBackend, answers: dict[Node, dict[str, Support]]
) -> Callable[[Node], bool]:
    def ask(node: Node) -> bool:
        support = backend.supports(node)
        answers.setdefault(node, {})[backend.name] = support
        return support.supported

    return ask


def _whole(graph_module: GraphModule, ask: Callable[[Node], bool]) -> tuple[Partition, ...]:
    """Return all operators as one partition if they can be one."""
    parts = partition(graph_module, ask)
    calls = [node for node in graph_module.graph.nodes if node.op == "call_function"]
    is_whole = len(parts) == 1 and len(parts[0].nodes) == len(calls)
    return parts if is_whole else ()


def _nobody_takes_all(
    guarded: Sequence[GuardedBackend], answers: Mapping[Node, Mapping[str, Support]]
) -> Exception:
    last = guarded[-1]
    for node, said in answers.items():
        support = said.get(last.name)
        if support is not None and not support.supported:
            return last.failed(f"does not take the whole program: {node.name} {support.reason}")
    return last.failed("does not take the whole program as one partition")


def _note_reasons(
    delegated: GraphModule, answers: Mapping[Node, Mapping[str, Support]], minimum: int
) -> None:
    names = {node.name: node for node in delegated.graph.nodes}
    small = f"its partition has fewer than {minimum} operators"
    for node, said in answers.items():
        for backend, support in said.items():
            if node.name in names:
                note_reason(names[node.name], backend, support.reason or small)
