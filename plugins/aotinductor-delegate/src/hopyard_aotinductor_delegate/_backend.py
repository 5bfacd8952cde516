"""The backend: what it takes, how it compiles a partition, and how it runs one."""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping
from typing import Any

import torch
from torch import SymInt, Tensor
from torch.fx import GraphModule, Node

from hopyard.ahead import Compiled, compile_ahead
from hopyard.partitioning import changes_operands, draws_random_numbers, export_partition
from hopyard_hookspecs import Lowered, Support

NAME = "aotinductor"
"""What the backend is registered as."""

_KEPT = 64
_OPERATOR = type(torch.ops.aten.add.Tensor)


class AotInductor:
    """Compiles partitions with AOTInductor.

    Parameters stay operands, so that training the original module changes what the compiled program
    computes, and partitions that differ only in parameters are compiled once.
    """

    def __init__(self) -> None:
        # A package is loaded once, however many partitions it stands for.
        self._loaded = functools.lru_cache(maxsize=_KEPT)(Compiled)

    def fingerprint(self) -> str:
        """Return the machine that code is compiled for."""
        return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"

    def supports(self, node: Node, /) -> Support:
        """Say whether the backend takes `node`, and if not, why not."""
        reason = _objection(node)
        return Support(not reason, reason)

    def lower(self, partition: GraphModule, options: Mapping[str, Any], /) -> Lowered:
        """Compile a partition."""
        # No state: what a program never writes is an operand all the same.
        return Lowered(partition, NAME, compile_ahead(export_partition(partition, {})))

    def run(self, lowered: Lowered, /, *operands: Any) -> tuple[Any, ...]:
        """Run the native code of a partition.

        Raises:
            ArtifactError: It is damaged, or made for another machine or version of torch.
        """
        tensors = [each.detach() if isinstance(each, Tensor) else each for each in operands]
        return tuple(self._loaded(lowered.processed_bytes)(*tensors))


def _objection(node: Node) -> str:
    target = node.target
    if not isinstance(target, _OPERATOR) or target.namespace not in ("aten", "prims"):
        return "is no operator of aten"
    if changes_operands(node):
        return "writes to its operands"
    if draws_random_numbers(node):
        return "draws random numbers"
    value = node.meta.get("val")
    outputs = value if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(each, Tensor | SymInt) for each in outputs):
        return "returns something else than tensors"
    tensors = [each for each in outputs if isinstance(each, Tensor)]
    if any(each.device.type != "cpu" or each.layout is not torch.strided for each in tensors):
        return "computes something else than dense tensors on the CPU"
    return ""
