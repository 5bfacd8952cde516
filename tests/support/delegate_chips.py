"""Backends of tests: importable, so that other processes can make them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch.fx import GraphModule, Interpreter, Node

from hopyard.partitioning import STATE
from hopyard_hookspecs import Backend, Lowered, Support, hookimpl


class Chip:
    """Takes what a subclass lists, and counts what it lowers; the reference graph runs."""

    name: ClassVar[str]
    takes: ClassVar[Sequence[str]]
    lowered: ClassVar[list[int]] = []

    def supports(self, node: Node) -> Support:
        known = str(node.target) in self.takes
        return Support(known, "" if known else f"is unknown to {self.name}")

    def lower(self, partition: GraphModule, options: Mapping[str, Any]) -> Lowered:
        self.lowered.append(threading.get_ident())
        calls = [node for node in partition.graph.nodes if node.op == "call_function"]
        text = f"{os.getpid()} {len(calls)} {sorted(options.items())}"
        return Lowered(partition, self.name, text.encode(), meta={"calls": len(calls)})


class Waves(Chip):
    name = "waves"
    takes = ("aten.sin.default", "aten.cos.default", "aten.mul.Tensor")


class Sums(Chip):
    name = "sums"
    takes = ("aten.add.Tensor", "aten.sub.Tensor", "aten.mul.Tensor")


class Slow(Waves):
    """Lowers in threads; each waits until another has begun."""

    name = "slow"
    together: ClassVar[threading.Barrier] = threading.Barrier(2)

    def lower(self, partition: GraphModule, options: Mapping[str, Any]) -> Lowered:
        self.together.wait(timeout=20)
        return super().lower(partition, options)


class Distant(Waves):
    """Lowers in processes; its bytes begin with the number of the process."""

    name = "distant"


class Constants(Chip):
    """Bakes constant operands into its bytes, and runs from those."""

    name = "constants"
    takes = ("aten.mul.Tensor", "aten.add.Tensor", "aten.mm.default", "aten.t.default")

    def lower(self, partition: GraphModule, options: Mapping[str, Any]) -> Lowered:
        self.lowered.append(threading.get_ident())
        found = {
            node.name: node.meta[STATE].detach().clone()
            for node in partition.graph.find_nodes(op="placeholder")
            if STATE in node.meta
        }
        values = b"".join(bytes(value.contiguous().untyped_storage()) for value in found.values())
        lowered = Lowered(partition, self.name, values, baked=tuple(found))
        self.tensors = getattr(self, "tensors", {}) | {values: list(found.values())}
        return lowered

    def run(self, lowered: Lowered, *operands: Any) -> tuple[Any, ...]:
        values = iter(self.tensors[lowered.processed_bytes])
        names = [n.name for n in lowered.original_module.graph.find_nodes(op="placeholder")]
        filled = [
            next(values) if name in lowered.baked else operand
            for name, operand in zip(names, operands, strict=True)
        ]
        with torch.no_grad():
            return tuple(Interpreter(lowered.original_module).run(*filled))


DECLARED = {
    Waves: {"options": ("turbo",)},
    Sums: {},
    Slow: {"concurrency": "threads", "cacheable": False},
    Distant: {"concurrency": "processes"},
    Constants: {"bakes_state": True},
}


class ChipsPlugin:
    @hookimpl
    def hopyard_register_backends(self) -> Iterator[Backend]:
        for chip, declared in DECLARED.items():
            yield Backend(chip.name, implementation=chip, **declared)
