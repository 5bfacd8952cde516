"""The pass `delegate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.fx import GraphModule, Node

from hopyard import Program, Session
from hopyard.partitioning import Call, Partition, Subgraph, outline, partition
from hopyard_hookspecs import BackendImplementation, Lowered, Provider, Support

from ._errors import DelegationError
from ._lowered_module import LoweredModule, call_delegate
from ._report import note_reason
from ._types import all_accept, described, input_types, output_types


@dataclass(frozen=True)
class Delegate:
    """Replace what a backend supports by calls of lowered partitions.

    The program keeps its calling convention. Parameters are operands of the partitions: nothing is
    copied, and training the original module changes what the delegated program computes.

    Args:
        backend: The name of a registered backend.
        minimum: The number of operators from which a partition is worth lowering.

    Raises:
        ValueError: `minimum` is less than 1.
    """

    backend: str = "reference"
    minimum: int = 1

    def __post_init__(self) -> None:
        if self.minimum < 1:
            raise ValueError(f"minimum must be at least 1, not {self.minimum}")

    def __call__(self, program: Program, session: Session, /) -> Program:
        """Return the program with its partitions lowered.

        Raises:
            UnknownNameError: There is no such backend.
            DelegationError: The backend raised, or did something else than it promised.
        """
        provider = session.lookup("backend", self.backend, session.backends).provider
        backend = _Backend(self.backend, provider, session.backend(self.backend))
        graph_module = program.graph_module
        supported: dict[Node, Support] = {}

        def is_supported(node: Node) -> bool:
            supported[node] = backend.supports(node)
            return supported[node].supported

        partitions = partition(graph_module, is_supported, minimum=self.minimum)
        delegated = outline(graph_module, partitions, backend.lower)
        names = {node.name: node for node in delegated.graph.nodes}
        for node, support in supported.items():
            if node.name in names:
                small = f"its partition has fewer than {self.minimum} operators"
                note_reason(names[node.name], self.backend, support.reason or small)
        return program.with_graph(delegated)


class _Backend:
    """A backend whose failures and lies are reported as its own."""

    def __init__(
        self, name: str, provider: Provider, implementation: BackendImplementation
    ) -> None:
        self._name = name
        self._provider = provider
        self._implementation = implementation
        self._lowered = 0

    def supports(self, node: Node) -> Support:
        try:
            support: Any = self._implementation.supports(node)
        except Exception as error:
            asked = f"raised {type(error).__name__} when asked about {node.name}: {error}"
            raise self._failed(asked) from error
        if not isinstance(support, Support):
            raise self._failed(
                f"answered a {type(support).__name__} when asked about {node.name}",
                hint="return hopyard_hookspecs.Support(supported, reason)",
            )
        return support

    def lower(self, subgraph: Subgraph) -> Call:
        index, self._lowered = self._lowered, self._lowered + 1
        where = _described(index, subgraph.partition)
        inputs, outputs = input_types(subgraph.graph_module), output_types(subgraph.graph_module)
        try:
            lowered: Any = self._implementation.lower(subgraph.graph_module, {})
        except Exception as error:
            raised = f"raised {type(error).__name__} when lowering {where}: {error}"
            raise self._failed(raised, index) from error
        wrong = self._wrong_form(lowered) or _wrong_types(lowered, inputs, outputs)
        if wrong:
            raise self._failed(f"lowered {where} to {wrong}", index)
        module = LoweredModule(lowered, self._implementation)
        return Call(call_delegate, module, "lowered_module")

    def _wrong_form(self, lowered: Any) -> str:
        """Say in what way a lowered partition is none, or return ""."""
        if not isinstance(lowered, Lowered):
            return f"a {type(lowered).__name__} instead of a Lowered"
        if lowered.backend_id != self._name:
            return f"something of the backend {lowered.backend_id!r}"
        content: Any = lowered.processed_bytes
        if not isinstance(content, bytes):
            return f"a {type(content).__name__} instead of bytes"
        reference: Any = lowered.original_module
        if not isinstance(reference, GraphModule):
            return "something without a reference graph"
        return ""

    def _failed(
        self, problem: str, partition: int | None = None, hint: str = ""
    ) -> DelegationError:
        return DelegationError(
            f"the backend {self._name!r} {problem}",
            backend=self._name,
            partition=partition,
            plugin=self._provider,
            hint=hint,
        )


def _wrong_types(lowered: Lowered, inputs: Any, outputs: Any) -> str:
    """Say in what way the reference graph is not the partition's, or return ""."""
    graph_module = lowered.original_module
    taken, returned = input_types(graph_module), output_types(graph_module)
    if not all_accept(inputs, taken):
        return f"a graph that takes {described(taken)} instead of {described(inputs)}"
    if not all_accept(outputs, returned):
        return f"a graph that returns {described(returned)} instead of {described(outputs)}"
    return ""


def _described(index: int, partition: Partition) -> str:
    first, last = partition.nodes[0], partition.nodes[-1]
    return f"partition {index} ({partition.size} operators, {first.name} to {last.name})"
