"""Which sizes of example inputs are asked to differ from call to call, and calls of such sizes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only, tree_unflatten

from hopyard import Program
from hopyard.errors import InputError
from hopyard.program import TensorType
from hopyard.program._sizes import known

_STEPS = (3, 1, 2, 4, 5, 8)


def asked_of(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, everything: bool
) -> dict[str, Any]:
    """Return what is asked of each input: sizes that may differ wherever the program allows it.

    Args:
        model: What is captured.
        args: Its positional inputs.
        kwargs: Its keyword inputs.
        everything: Whether all dimensions are meant; if not, the first, and the second of tokens.
    """

    def dims(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return None
        count = value.dim() if everything else min(value.dim(), 2 if value.dim() == 2 else 1)
        return dict.fromkeys(range(count), Dim.AUTO)

    names = list(inspect.signature(model.forward).parameters)
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    return {name: tree_map(dims, value) for name, value in given.items()}


def enlarged(values: Any) -> Any:
    """Return inputs without dimensions of size one in front, which would stand for themselves."""
    return tree_map_only(
        Tensor, lambda value: torch.cat([value] * 2) if value.shape[:1] == (1,) else value, values
    )


def resized(program: Program, call: Any, step: int) -> Any:
    """Return a call like another one, with sizes that differ by about `step` if they may."""
    args, kwargs = call
    leaves, bindings = program.convention.flatten(args, kwargs)
    sizes = dict(bindings)
    for symbol in bindings:
        for more in (step, *_STEPS):
            try:
                program.convention.symbols.check(
                    {**sizes, symbol: bindings[symbol] + more}, dict.fromkeys(bindings, "size")
                )
            except InputError:
                continue
            sizes[symbol] = bindings[symbol] + more
            break
    values = [
        _of_shape(value, known(leaf.expected.shape, sizes))
        if isinstance(leaf.expected, TensorType)
        else value
        for leaf, value in zip(program.convention.inputs, leaves, strict=True)
    ]
    return tree_unflatten(values, program.convention.in_spec)


def _of_shape(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    for dim, size in enumerate(shape):
        if size != value.shape[dim]:
            value = value.index_select(dim, torch.arange(size) % value.shape[dim])
    return value


def ranges_of(program: Program) -> dict[tuple[int, int], tuple[float, float]]:
    """Return the least and greatest size of each dynamic dimension, by input and dimension."""
    ranges = {each.symbol: each for each in program.convention.symbols.ranges}
    return {
        (index, dim): (ranges[size].least, ranges[size].greatest or float("inf"))
        if size in ranges
        else (0, float("inf"))
        for index, leaf in enumerate(program.convention.inputs)
        if isinstance(leaf.expected, TensorType)
        for dim, size in enumerate(leaf.expected.shape)
        if not isinstance(size, int)
    }


def ranges_of_exported(exported: ExportedProgram) -> dict[tuple[int, int], tuple[float, float]]:
    """Return the same of a program of torch's."""
    found = {}
    for index, value in enumerate(_inputs(exported)):
        if not isinstance(value, Tensor):
            continue
        for dim, size in enumerate(value.shape):
            if isinstance(size, torch.SymInt) and size.node.expr.free_symbols:
                known_range = exported.range_constraints.get(size.node.expr)
                bounds = (2.0, float("inf"))
                if known_range is not None:
                    bounds = float(known_range.lower), float(known_range.upper)
                found[index, dim] = bounds
    return found


def _inputs(exported: ExportedProgram) -> Iterator[Any]:
    nodes = {node.name: node for node in exported.graph.nodes}
    for spec in exported.graph_signature.input_specs:
        if spec.kind.name == "USER_INPUT":
            yield nodes[spec.arg.name].meta.get("val") if spec.arg.name in nodes else None


def narrower(program: Program, exported: ExportedProgram) -> str:
    """Return which dimension takes fewer sizes than torch's program does, or ""."""
    ours = ranges_of(program)
    for place, (least, greatest) in ranges_of_exported(exported).items():
        path = program.convention.inputs[place[0]].path
        if place not in ours:
            return f"dimension {place[1]} of {path} is fixed, which torch leaves dynamic"
        if ours[place][0] > max(least, 2) or ours[place][1] < greatest:
            return f"dimension {place[1]} of {path} is {ours[place]}, torch's {(least, greatest)}"
    return ""


def dimension_count(values: Any) -> int:
    """Return how many dimensions the tensors among some values have."""
    return sum(value.dim() for value in tree_leaves(values) if isinstance(value, Tensor))
