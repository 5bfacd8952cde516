"""A graph of aten operators as bytes, and the machine that runs them.

The bytes are JSON text, which holds everything that the graph computes and nothing that is executed
when it is read::

    {"format": "hopyard-reference", "version": 1,
     "inputs": ["float32[2, 3] on cpu"],
     "instructions": [
       {"operator": "aten.mul.Tensor", "args": [{"value": 0}, {"float": "0.5"}], "kwargs": {}}],
     "outputs": [{"value": 1}]}

Values are numbered: first the inputs, then one for each instruction. Every argument says its type.
The operator `getitem` picks an output of an operator that has several.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch.fx import GraphModule, Node

from hopyard.errors import ArtifactError

from ._types import input_types

FORMAT = "hopyard-reference"
VERSION = 1
"""The version that is written, and the latest that can be read."""

_GETITEM = "getitem"
_OPERATOR = re.compile(r"aten\.(\w+)\.(\w+)")
_PLAIN: Mapping[type[Any], str] = {type(None): "none", bool: "bool", int: "int", str: "str"}
_NAMED: Mapping[str, type[Any]] = {
    "dtype": torch.dtype,
    "layout": torch.layout,
    "memory_format": torch.memory_format,
}


AtenOperator = type(torch.ops.aten.add.Tensor)
"""The type of an overload of an operator."""


class UnwritableError(Exception):
    """A value that the format has no form for."""


@dataclass(frozen=True, slots=True)
class Value:
    """A reference to an input or to what an instruction computed."""

    index: int


@dataclass(frozen=True, slots=True)
class Instruction:
    """One call.

    Attributes:
        function: What is called.
        args: Its arguments; each :class:`Value` in them stands for a value.
        kwargs: Its keyword arguments.
        finished: Values that nothing reads after this instruction.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    finished: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Machine:
    """A graph that was read from bytes, ready to run on any number of threads.

    Attributes:
        inputs: The number of inputs.
        instructions: What is called, in order.
        outputs: What is returned.
    """

    inputs: int
    instructions: tuple[Instruction, ...]
    outputs: tuple[Any, ...]

    def run(self, operands: Sequence[Any]) -> tuple[Any, ...]:
        """Compute the outputs.

        Raises:
            ArtifactError: There are more or fewer operands than inputs.
        """
        if len(operands) != self.inputs:
            _refuse(f"they take {self.inputs} operands, but {len(operands)} were given")
        values = list(operands)
        for instruction in self.instructions:
            args = _filled(instruction.args, values)
            kwargs = _filled(instruction.kwargs, values)
            values.append(instruction.function(*args, **kwargs))
            for index in instruction.finished:
                values[index] = None
        outputs: tuple[Any, ...] = _filled(self.outputs, values)
        return outputs


def encode(graph_module: GraphModule) -> bytes:
    """Return a graph as bytes; equal graphs, whatever their nodes are called, as equal bytes.

    Raises:
        UnwritableError: It holds a node or value that the format has no form for.
    """
    numbers: dict[Node, int] = {}
    instructions = []
    outputs: Any = ()
    for node in graph_module.graph.nodes:
        if node.op == "output":
            outputs = node.args[0]
            continue
        if node.op == "call_function":
            instructions.append(
                {
                    "operator": _operator_name(node.target),
                    "args": [written(arg, numbers) for arg in node.args],
                    "kwargs": {key: written(arg, numbers) for key, arg in node.kwargs.items()},
                }
            )
        elif node.op != "placeholder":
            raise UnwritableError(f"a {node.op} node")
        numbers[node] = len(numbers)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "inputs": [str(each) for each in input_types(graph_module)],
        "instructions": instructions,
        "outputs": [written(output, numbers) for output in outputs],
    }
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()


def decode(content: bytes) -> Machine:
    """Read what :func:`encode` wrote.

    Raises:
        ArtifactError: The bytes are damaged, of another format, or of a later version.
    """
    data = _header(content)
    try:
        count = len(data["inputs"])
        instructions: list[Instruction] = []
        for entry in data["instructions"]:
            defined = count + len(instructions)
            instructions.append(
                Instruction(
                    _function(entry["operator"]),
                    tuple(_read(arg, defined) for arg in entry["args"]),
                    {str(key): _read(arg, defined) for key, arg in entry["kwargs"].items()},
                )
            )
        outputs = tuple(_read(output, count + len(instructions)) for output in data["outputs"])
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        _refuse(f"{type(error).__name__}: {error}", error)
    return Machine(count, _released(instructions, outputs), outputs)


def written(value: Any, numbers: Mapping[Node, int] | None = None) -> dict[str, Any]:
    """Return the form of an argument; without `numbers`, only to learn whether it has one.

    Raises:
        UnwritableError: It has none.
    """
    if isinstance(value, Node):
        return {"value": 0 if numbers is None else numbers[value]}
    if type(value) in _PLAIN:
        return {_PLAIN[type(value)]: value}
    if isinstance(value, float):
        return {"float": float.__repr__(value)}
    if isinstance(value, complex):
        return {"complex": [repr(value.real), repr(value.imag)]}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    for kind, of_type in _NAMED.items():
        if isinstance(value, of_type):
            return {kind: str(value).removeprefix("torch.")}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [written(item, numbers) for item in value]}
    raise UnwritableError(f"a {type(value).__name__}")


def _operator_name(target: Any) -> str:
    return _GETITEM if target is operator.getitem else str(target)


def _function(name: str) -> Callable[..., Any]:
    if name == _GETITEM:
        return operator.getitem
    match = _OPERATOR.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is no aten operator")
    function: Callable[..., Any] = getattr(getattr(torch.ops.aten, match[1]), match[2])
    if not isinstance(function, AtenOperator):
        raise ValueError(f"{name!r} is no aten operator")
    return function


def _header(content: bytes) -> dict[str, Any]:
    try:
        data = json.loads(bytes(content))
    except (TypeError, ValueError, RecursionError) as error:
        _refuse(str(error), error)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        _refuse(f"they are not of the format {FORMAT!r}")
    version = data.get("version")
    if not isinstance(version, int) or version < 1:
        _refuse(f"{version!r} is no version")
    if version > VERSION:
        raise ArtifactError(
            f"the bytes of a partition are of version {version} of the format {FORMAT!r}; "
            f"only versions up to {VERSION} can be read",
            hint="update hopyard-executorch-delegate",
            stage="backend 'reference'",
        )
    return data


def _read(form: Mapping[str, Any], defined: int) -> Any:
    """Return the argument of a form; `defined` values precede it."""
    ((kind, content),) = form.items()
    if kind == "value":
        if type(content) is not int or not 0 <= content < defined:
            raise ValueError(f"there is no value {content!r} yet")
        return Value(content)
    if kind in ("list", "tuple"):
        items = [_read(item, defined) for item in content]
        return items if kind == "list" else tuple(items)
    if kind in _NAMED:
        named = getattr(torch, content)
        if not isinstance(named, _NAMED[kind]):
            raise ValueError(f"{content!r} is no {kind}")
        return named
    return _read_number(kind, content)


def _read_number(kind: str, content: Any) -> Any:
    if kind == "float":
        return float(content)
    if kind == "complex":
        real, imaginary = content
        return complex(float(real), float(imaginary))
    if kind == "device":
        return torch.device(content)
    if _PLAIN.get(type(content)) != kind:
        raise ValueError(f"{content!r} is no {kind}")
    return content


def _released(
    instructions: Sequence[Instruction], outputs: Sequence[Any]
) -> tuple[Instruction, ...]:
    """Return the instructions with the values that each is the last to read."""
    alive = set(_referenced(outputs))
    released = []
    for instruction in reversed(instructions):
        read = set(_referenced((instruction.args, instruction.kwargs)))
        finished = tuple(sorted(read - alive))
        alive |= read
        released.append(
            Instruction(instruction.function, instruction.args, instruction.kwargs, finished)
        )
    return tuple(reversed(released))


def _referenced(template: Any) -> list[int]:
    if isinstance(template, Value):
        return [template.index]
    if isinstance(template, Mapping):
        template = list(template.values())
    if isinstance(template, (list, tuple)):
        return [index for item in template for index in _referenced(item)]
    return []


def _filled(template: Any, values: Sequence[Any]) -> Any:
    if isinstance(template, Value):
        return values[template.index]
    if isinstance(template, tuple):
        return tuple([_filled(item, values) for item in template])
    if isinstance(template, list):
        return [_filled(item, values) for item in template]
    if isinstance(template, dict):
        return {key: _filled(item, values) for key, item in template.items()}
    return template


def _refuse(why: str, cause: BaseException | None = None) -> NoReturn:
    raise ArtifactError(
        f"cannot run the bytes of a partition: {why}",
        hint="delegate the program again",
        stage="backend 'reference'",
    ) from cause
