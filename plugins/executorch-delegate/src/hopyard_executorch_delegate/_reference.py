"""The reference backend, which needs nothing installed."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Node

from hopyard.partitioning import changes_operands, draws_random_numbers
from hopyard_hookspecs import Lowered, Support

from ._format import AtenOperator, UnwritableError, decode, encode, written

NAME = "reference"
"""What the backend is registered as."""

_KEPT = 64


class ReferenceBackend:
    """Turns a partition into self-describing bytes and runs them with PyTorch's operators.

    What it computes comes from the bytes alone. It takes operators of aten that are functions of
    their operands: none that write to them, draw random numbers or return anything but tensors.
    """

    def __init__(self) -> None:
        self._machine = functools.lru_cache(maxsize=_KEPT)(decode)

    def supports(self, node: Node, /) -> Support:
        """Say whether the backend takes `node`, and if not, why not."""
        reason = _objection(node)
        return Support(not reason, reason)

    def lower(self, partition: GraphModule, options: Mapping[str, Any], /) -> Lowered:
        """Serialise a partition."""
        return Lowered(partition, NAME, encode(partition))

    def run(self, lowered: Lowered, /, *operands: Any) -> tuple[Any, ...]:
        """Execute the bytes of a partition.

        Raises:
            ArtifactError: They are damaged, of a later version, or take other operands.
        """
        return self._machine(lowered.processed_bytes).run(operands)


def _objection(node: Node) -> str:
    target = node.target
    if node.op != "call_function" or not isinstance(target, AtenOperator):
        return "is no operator of aten"
    if target.namespace != "aten":
        return f"is an operator of {target.namespace}, not of aten"
    if changes_operands(node):
        return "writes to its operands"
    if draws_random_numbers(node):
        return "draws random numbers"
    value = node.meta.get("val")
    outputs = value if isinstance(value, (list, tuple)) else [value]
    if "val" not in node.meta or not all(isinstance(each, Tensor | None) for each in outputs):
        return "returns something else than tensors"
    try:
        for argument in (*node.args, *node.kwargs.values()):
            written(argument)
    except UnwritableError as error:
        return f"an argument is {error}"
    return ""
