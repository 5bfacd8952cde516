"""What torch's archive has no place for, as JSON beside it.

That is how a user writes the inputs, which results share memory with operands, plain values that
torch does not write, such as the name of a data type, and what safeguards found.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch.export.graph_signature import (
    ArgumentSpec,
    ConstantArgument,
    ExportGraphSignature,
    InputKind,
    OutputKind,
)

from .._graph_copy import copy_graph_module
from ..errors import ArtifactError
from ..findings import from_json, to_json
from ._aliases import Alias, View
from ._expressions import read_arithmetic
from ._program import Program
from ._sizes import Range, Size, Symbols

FORMAT = 1
"""Version of the layout of this file."""

_OF_TORCH = (torch.dtype, torch.layout, torch.memory_format)


def write_calling(program: Program) -> tuple[Program, str]:
    """Return a program that torch can write, and as JSON what it then lacks.

    Raises:
        ArtifactError: The program takes or returns a value that no file can hold.
    """
    signature = program.signature
    taken = [spec.arg for spec in signature.input_specs if spec.kind is InputKind.USER_INPUT]
    returned = [s.arg for s in signature.output_specs if s.kind is OutputKind.USER_OUTPUT]
    known = (bool, int, float, type(None))
    inputs = _encoded(taken, (*known, str), "takes")
    results = _encoded(returned, known, "returns")
    convention = program.convention
    data = {
        "format": FORMAT,
        "paths": [leaf.path for leaf in convention.inputs],
        "parameters": convention.parameters,
        "aliases": [_written_alias(alias) for alias in convention.aliases],
        "inputs": inputs,
        "results": results,
        "ranges": [
            [sympy.srepr(each.symbol), each.least, each.greatest]
            for each in convention.symbols.ranges
        ],
        "conditions": [sympy.srepr(each) for each in convention.symbols.conditions],
        "findings": to_json(program.findings),
    }
    replaced = _with_plain_values(program, dict.fromkeys(inputs), dict.fromkeys(results))
    return replaced, json.dumps(data, indent=2)


def read_calling(program: Program, text: str) -> Program:
    """Return a program that torch has read with what :func:`write_calling` wrote.

    Raises:
        ValueError: The text does not describe this program, or is one of a later format.
    """
    data = json.loads(text)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError("the calling convention is of another format")
    inputs = {key: _decoded(value) for key, value in data["inputs"].items()}
    results = {key: _decoded(value) for key, value in data["results"].items()}
    program = _with_plain_values(program, inputs, results)
    paths = [str(path) for path in data["paths"]]
    leaves = program.convention.inputs
    convention = dataclasses.replace(
        program.convention,
        inputs=tuple(
            dataclasses.replace(leaf, path=path) for leaf, path in zip(leaves, paths, strict=True)
        ),
        parameters=tuple(str(name) for name in data["parameters"]),
        aliases=tuple(_alias(alias, program) for alias in data["aliases"]),
        symbols=Symbols(
            tuple(
                Range(read_arithmetic(symbol), int(least), None if most is None else int(most))
                for symbol, least, most in data["ranges"]
            ),
            tuple(read_arithmetic(condition) for condition in data["conditions"]),
        ),
    )
    return program.replaced(convention=convention, findings=from_json(data["findings"]))


def _written_alias(alias: Alias) -> dict[str, Any]:
    view = alias.view
    return {
        "result": alias.result,
        "operand": alias.operand,
        "view": view
        and {
            "shape": [_written_size(size) for size in view.shape],
            "stride": [_written_size(step) for step in view.stride],
            "offset": _written_size(view.offset),
        },
    }


def _written_size(size: Size) -> int | str:
    return str(sympy.srepr(size)) if isinstance(size, sympy.Basic) else int(size)


def _encoded(
    arguments: Sequence[ArgumentSpec], known: tuple[type, ...], verb: str
) -> dict[str, list[Any]]:
    """Return by position the plain values that are not of a type that torch writes and reads."""
    return {
        str(index): _encoded_value(argument.value, verb)
        for index, argument in enumerate(arguments)
        if isinstance(argument, ConstantArgument) and type(argument.value) not in known
    }


def _encoded_value(value: Any, verb: str) -> list[Any]:
    if type(value) is str:
        return ["str", value]
    if isinstance(value, torch.device):
        return ["device", str(value)]
    if isinstance(value, _OF_TORCH):
        return ["torch", str(value).removeprefix("torch.")]
    if type(value) is complex:
        return ["complex", value.real, value.imag]
    raise ArtifactError(
        f"the program {verb} {value!r}, which a .pt2 file cannot hold",
        hint="capture a function around it that leaves the value out",
        stage="save",
    )


def _decoded(encoded: Sequence[Any]) -> Any:
    kind, *parts = encoded
    if kind == "str":
        return str(parts[0])
    if kind == "device":
        return torch.device(str(parts[0]))
    if kind == "complex":
        return complex(float(parts[0]), float(parts[1]))
    value = getattr(torch, str(parts[0]), None)
    if kind != "torch" or not isinstance(value, _OF_TORCH):
        raise ValueError(f"{parts} is no plain value")
    return value


def _alias(data: Mapping[str, Any], program: Program) -> Alias:
    alias = Alias(int(data["result"]), str(data["operand"]))
    names = [spec.arg.name for spec in program.signature.input_specs]
    if alias.operand not in names or not 0 <= alias.result < program.result_count:
        raise ValueError(f"there is no {alias}")
    view = data["view"]
    if view is None:
        return alias
    shape, stride = (tuple(map(_read_size, view[key])) for key in ("shape", "stride"))
    return dataclasses.replace(alias, view=View(shape, stride, _read_size(view["offset"])))


def _read_size(written: Any) -> Size:
    return read_arithmetic(written) if isinstance(written, str) else int(written)


def _with_plain_values(
    program: Program, inputs: Mapping[str, Any], results: Mapping[str, Any]
) -> Program:
    """Return `program` with other plain values, given by the positions of inputs and of results."""
    if not inputs and not results:
        return program
    graph_module = copy_graph_module(program.graph_module)
    program = program.replaced(graph_module=graph_module)
    program = _with_results(_with_inputs(program, inputs), results)
    graph_module.recompile()
    return program


def _with_inputs(program: Program, values: Mapping[str, Any]) -> Program:
    placeholders = {node.name: node for node in program.graph.find_nodes(op="placeholder")}
    leaves = list(program.convention.inputs)
    specs = list(program.signature.input_specs)
    taken = [index for index, spec in enumerate(specs) if spec.kind is InputKind.USER_INPUT]
    for key, value in values.items():
        index = taken[int(key)]
        spec = specs[index]
        leaves[int(key)] = dataclasses.replace(leaves[int(key)], expected=value)
        placeholders[spec.arg.name].meta["val"] = value
        specs[index] = dataclasses.replace(spec, arg=ConstantArgument(spec.arg.name, value))
    return program.replaced(
        convention=dataclasses.replace(program.convention, inputs=tuple(leaves)),
        signature=ExportGraphSignature(specs, list(program.signature.output_specs)),
    )


def _with_results(program: Program, values: Mapping[str, Any]) -> Program:
    output = program.graph.output_node()
    outputs: list[Any] = list(output.args[0])  # type: ignore[arg-type]
    specs = list(program.signature.output_specs)
    first = len(outputs) - program.result_count
    for key, value in values.items():
        index = first + int(key)
        outputs[index] = value
        specs[index] = dataclasses.replace(specs[index], arg=ConstantArgument("", value))
    output.args = (tuple(outputs),)
    signature = ExportGraphSignature(list(program.signature.input_specs), specs)
    return program.replaced(signature=signature)
