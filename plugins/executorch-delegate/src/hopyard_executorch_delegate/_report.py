"""What of a program went where."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass

from torch.fx import Graph, Node

from hopyard import Program

from ._lowered_module import call_delegate

_REASONS = "executorch_delegate_reasons"


@dataclass(frozen=True, slots=True)
class DelegatedPartition:
    """A partition that a backend took.

    Attributes:
        name: The attribute of the graph module that holds it.
        backend: The backend's name.
        operators: How many operators it stands for.
        size: The number of lowered bytes.
    """

    name: str
    backend: str
    operators: int
    size: int


@dataclass(frozen=True, slots=True)
class UndelegatedNode:
    """An operator that stayed in the graph.

    Attributes:
        name: The node's name.
        target: What it calls.
        reasons: Why each backend that was asked left it, by the backend's name.
    """

    name: str
    target: str
    reasons: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class DelegationReport:
    """What of a program went where.

    Attributes:
        partitions: What backends took, in the order of execution.
        undelegated: What stayed.
    """

    partitions: tuple[DelegatedPartition, ...]
    undelegated: tuple[UndelegatedNode, ...]

    @property
    def delegated_operators(self) -> int:
        """How many operators backends took."""
        return sum(partition.operators for partition in self.partitions)

    def __str__(self) -> str:
        total = self.delegated_operators + len(self.undelegated)
        lines = [
            f"{self.delegated_operators} of {total} operators delegated, "
            f"in {len(self.partitions)} partitions"
        ]
        lines += [
            f"  {each.name}: {each.operators} operators to {each.backend}, {each.size} bytes"
            for each in self.partitions
        ]
        for node in self.undelegated:
            said = "; ".join(f"{backend}: {why}" for backend, why in node.reasons.items())
            lines.append(f"  {node.name}: {node.target} stays ({said or 'no backend was asked'})")
        return "\n".join(lines)


def report(program: Program) -> DelegationReport:
    """Return what of a program went where; operators inside regions are not looked at."""
    partitions, undelegated = [], []
    for node in _operators(program.graph):
        if node.target is call_delegate:
            partitions.append(_delegated(program, node))
        else:
            reasons = dict(node.meta.get(_REASONS, {}))
            undelegated.append(UndelegatedNode(node.name, str(node.target), reasons))
    return DelegationReport(tuple(partitions), tuple(undelegated))


def note_reason(node: Node, backend: str, reason: str) -> None:
    """Remember at a node why a backend left it."""
    node.meta[_REASONS] = {**node.meta.get(_REASONS, {}), backend: reason}


def _delegated(program: Program, node: Node) -> DelegatedPartition:
    name = str(node.args[0])
    module = getattr(program.graph_module, name)
    operators = len(_operators(module.original_module.graph))
    return DelegatedPartition(name, module.backend_id, operators, len(module.processed_bytes))


def _operators(graph: Graph) -> list[Node]:
    calls = [node for node in graph.nodes if node.op == "call_function"]
    return [call for call in calls if call.target is not operator.getitem]
