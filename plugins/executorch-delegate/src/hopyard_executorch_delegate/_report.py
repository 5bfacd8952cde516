"""What of a program went where."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.export.graph_signature import InputKind
from torch.fx import Graph, GraphModule, Node

from hopyard import Program
from hopyard.analysis import cost_of, cost_of_node

from ._lowered_module import call_delegate

_REASONS = "executorch_delegate_reasons"


@dataclass(frozen=True, slots=True)
class DelegatedPartition:
    """A partition that a backend took.

    Attributes:
        name: The attribute of the graph module that holds it.
        backend: The backend's name.
        operators: How many operators it stands for.
        size: The number of lowered bytes, named data included.
        flops: How many floating-point operations a run takes; None if that depends on the sizes.
        targets: What it calls, and how often.
    """

    name: str
    backend: str
    operators: int
    size: int
    flops: int | None = None
    targets: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class UndelegatedNode:
    """An operator that stayed in the graph.

    Attributes:
        name: The node's name.
        target: What it calls.
        reasons: Why each backend that was asked left it, by the backend's name.
        flops: How many floating-point operations it takes; None if that depends on the sizes.
    """

    name: str
    target: str
    reasons: Mapping[str, str]
    flops: int | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """How much of something backends took.

    Attributes:
        delegated: How much they took.
        total: How much there is.
    """

    delegated: int
    total: int

    @property
    def ratio(self) -> float:
        """The part that they took, from 0 to 1; 1 of nothing."""
        return self.delegated / self.total if self.total else 1.0

    def __str__(self) -> str:
        return f"{self.ratio:.1%} ({self.delegated} of {self.total})"


@dataclass(frozen=True, slots=True)
class DelegationReport:
    """What of a program went where.

    Attributes:
        partitions: What backends took, in the order of execution.
        undelegated: What stayed.
        parameter_bytes: Bytes of the parameters that partitions read.
    """

    partitions: tuple[DelegatedPartition, ...]
    undelegated: tuple[UndelegatedNode, ...]
    parameter_bytes: Share = Share(0, 0)

    @property
    def delegated_operators(self) -> int:
        """How many operators backends took."""
        return sum(partition.operators for partition in self.partitions)

    @property
    def operators(self) -> Share:
        """How many operators backends took, of all."""
        taken = self.delegated_operators
        return Share(taken, taken + len(self.undelegated))

    @property
    def flops(self) -> Share:
        """How many floating-point operations backends took, of those that are known."""
        taken = sum(each.flops or 0 for each in self.partitions)
        return Share(taken, taken + sum(each.flops or 0 for each in self.undelegated))

    def data(self) -> dict[str, Any]:
        """Return everything for programs."""
        return {
            "operators": _share_data(self.operators),
            "flops": _share_data(self.flops),
            "parameter_bytes": _share_data(self.parameter_bytes),
            "partitions": [
                {
                    "name": each.name,
                    "backend": each.backend,
                    "operators": each.operators,
                    "bytes": each.size,
                    "flops": each.flops,
                    "targets": dict(each.targets or {}),
                }
                for each in self.partitions
            ],
            "undelegated": [
                {
                    "name": each.name,
                    "target": each.target,
                    "reasons": dict(each.reasons),
                    "flops": each.flops,
                }
                for each in self.undelegated
            ],
        }

    def to_json(self) -> str:
        """Return everything as JSON text."""
        return json.dumps(self.data(), indent=2)

    def __str__(self) -> str:
        total = self.delegated_operators + len(self.undelegated)
        shares = [("FLOPs", self.flops), ("parameter bytes", self.parameter_bytes)]
        lines = [
            f"{self.delegated_operators} of {total} operators delegated, "
            f"in {len(self.partitions)} partitions",
            *(f"  {share} {what}" for what, share in shares if share.total),
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
            flops = _known(cost_of_node(node).total.flops)
            undelegated.append(UndelegatedNode(node.name, str(node.target), reasons, flops))
    return DelegationReport(tuple(partitions), tuple(undelegated), _parameter_bytes(program))


def note_reason(node: Node, backend: str, reason: str) -> None:
    """Remember at a node why a backend left it."""
    node.meta[_REASONS] = {**node.meta.get(_REASONS, {}), backend: reason}


def _delegated(program: Program, node: Node) -> DelegatedPartition:
    lowered: Any = node.args[0]
    module = getattr(program.graph_module, str(lowered.target))
    reference: GraphModule = module.original_module
    operators = _operators(reference.graph)
    targets: dict[str, int] = {}
    for each in operators:
        targets[str(each.target)] = targets.get(str(each.target), 0) + 1
    return DelegatedPartition(
        str(lowered.target),
        module.backend_id,
        len(operators),
        len(module.processed_bytes) + sum(map(len, module.named_data.values())),
        _known(cost_of(reference).total.flops),
        targets,
    )


def _parameter_bytes(program: Program) -> Share:
    sizes = {
        spec.arg.name: _size(program.state[str(spec.target)])
        for spec in program.signature.input_specs
        if spec.kind is InputKind.PARAMETER
    }
    read: set[str] = set()
    for node in program.graph.find_nodes(op="call_function", target=call_delegate):
        read.update(operand.name for operand in node.all_input_nodes)
    return Share(sum(sizes[name] for name in sizes.keys() & read), sum(sizes.values()))


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _known(amount: Any) -> int | None:
    return amount if isinstance(amount, int) else None


def _share_data(share: Share) -> dict[str, Any]:
    return {"delegated": share.delegated, "total": share.total, "ratio": share.ratio}


def _operators(graph: Graph) -> list[Node]:
    calls: Iterable[Node] = (node for node in graph.nodes if node.op == "call_function")
    return [call for call in calls if call.target is not operator.getitem]
