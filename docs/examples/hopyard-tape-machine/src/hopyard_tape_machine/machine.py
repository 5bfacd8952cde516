"""The machine, and how a partition becomes a tape."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from hopyard_hookspecs import Lowered, Support

aten = torch.ops.aten

NAME = "tape-machine"
SPEEDS = ("slow", "fast")

_OPCODES: tuple[tuple[Any, Callable[..., Tensor]], ...] = (
    (aten.add.Tensor, torch.add),
    (aten.sub.Tensor, torch.sub),
    (aten.mul.Tensor, torch.mul),
    (aten.neg.default, torch.neg),
    (aten.sin.default, torch.sin),
    (aten.exp.default, torch.exp),
)
_HEADER = struct.Struct("<4sHHH")
_INSTRUCTION = struct.Struct("<HHH")
_MAGIC = b"TAPE"
_NONE = 0xFFFF


class TapeMachine:
    """Lowers partitions to tapes, and executes those."""

    def supports(self, node: Node, /) -> Support:
        """Say whether the machine has an opcode for `node`, and if not, why not."""
        targets = [target for target, _ in _OPCODES]
        if node.target not in targets:
            return Support(False, "has no opcode")
        if not all(isinstance(operand, Node) for operand in node.args) or node.kwargs:
            return Support(False, "has an operand that is no tensor")
        values = [node.meta["val"], *(each.meta.get("val") for each in node.all_input_nodes)]
        if not all(isinstance(v, Tensor) and v.dtype is torch.float32 for v in values):
            return Support(False, "is no operation on float32")
        return Support(True)

    def lower(self, partition: GraphModule, options: Mapping[str, Any], /) -> Lowered:
        """Write the tape of a partition; the option `speed` is `slow` or `fast`.

        Raises:
            ValueError: It is neither.
        """
        speed = options.get("speed", SPEEDS[0])
        if speed not in SPEEDS:
            raise ValueError(f"speed is one of {', '.join(SPEEDS)}, not {speed!r}")
        targets = [target for target, _ in _OPCODES]
        numbers: dict[Node, int] = {}
        tape = []
        for node in partition.graph.nodes:
            if node.op == "call_function":
                operands = [numbers[operand] for operand in node.args]
                padded = [*operands, _NONE][:2]
                tape.append(_INSTRUCTION.pack(targets.index(node.target), *padded))
            if node.op != "output":
                numbers[node] = len(numbers)
        returned: Any = partition.graph.output_node().args[0]
        outputs = [numbers[each] for each in returned]
        inputs = len(numbers) - len(tape)
        header = _HEADER.pack(_MAGIC, inputs, len(tape), len(outputs))
        content = header + b"".join(tape) + struct.pack(f"<{len(outputs)}H", *outputs)
        return Lowered(partition, NAME, content, compile_specs={"speed": speed})

    def run(self, lowered: Lowered, /, *operands: Any) -> tuple[Any, ...]:
        """Execute a tape.

        Raises:
            ValueError: It is damaged, or for another number of operands.
        """
        return execute(lowered.processed_bytes, operands)


def execute(tape: bytes, operands: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Execute a tape.

    Raises:
        ValueError: It is damaged, or for another number of operands.
    """
    try:
        magic, inputs, length, outputs = _HEADER.unpack_from(tape)
        end = _HEADER.size + length * _INSTRUCTION.size
        results = struct.unpack_from(f"<{outputs}H", tape, end)
        instructions = list(_INSTRUCTION.iter_unpack(tape[_HEADER.size : end]))
    except struct.error as error:
        raise ValueError(f"the tape is damaged: {error}") from error
    if magic != _MAGIC or inputs != len(operands):
        raise ValueError("the tape is damaged, or for other operands")
    values = list(operands)
    for opcode, first, second in instructions:
        _, function = _OPCODES[opcode]
        given = [values[first]] if second == _NONE else [values[first], values[second]]
        values.append(function(*given))
    return tuple(values[index] for index in results)
