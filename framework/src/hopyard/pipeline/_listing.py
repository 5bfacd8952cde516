"""Graphs as text that people read and compare."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from hopyard._torch.dispatch import HigherOrderOperator, OpOverload
from hopyard.tracing import node_location
from hopyard.verify import walk_graphs

from ._origin import origin_of

_CONTEXT = 2


def listing(graph_module: GraphModule, *, comments: bool = True) -> str:
    """Return a graph and the regions in it as text, a line a node; the same for equal graphs.

    ::

        %relu: float32[3, 4] = aten.relu.default(%addmm)  # swap [acme 1.2] from addmm; model.py:12

    Args:
        graph_module: The graph; it need not be sound.
        comments: Whether to tell which pass made a node, and the line of the user's source.
    """
    return "\n".join(
        f"{plain}  # {comment}" if comments and comment else plain
        for plain, comment in _lines(graph_module)
    )


def listing_diff(before: str, after: str) -> str:
    """Return how two listings differ, with a few lines around each difference; "" if they do not.

    Comments do not count as differences, and are shown.
    """
    old, new = before.splitlines(), after.splitlines()
    matcher = difflib.SequenceMatcher(
        None, [_without_comment(line) for line in old], [_without_comment(line) for line in new]
    )
    lines = []
    for group in matcher.get_grouped_opcodes(_CONTEXT):
        lines.append(f"@@ line {group[0][1] + 1} -> {group[0][3] + 1} @@")
        for kind, start, end, new_start, new_end in group:
            if kind == "equal":
                lines += [f"  {line}" for line in new[new_start:new_end]]
                continue
            lines += [f"- {line}" for line in old[start:end]]
            lines += [f"+ {line}" for line in new[new_start:new_end]]
    return "\n".join(lines)


def graph_diff(before: GraphModule, after: GraphModule) -> str:
    """Return how two graphs differ as text, with who made what is new; "" if they do not.

    Nodes are told apart by their names, as passes keep them for what they leave alone.
    """
    return listing_diff(listing(before), listing(after))


def _without_comment(line: str) -> str:
    return line.partition("  # ")[0]


def _lines(graph_module: GraphModule) -> Iterator[tuple[str, str]]:
    for path, body in walk_graphs(graph_module):
        if path:
            yield "", ""
            yield f"region {path}:", ""
        for node in body.graph.nodes:
            yield _line(node), _comment(node)


def _line(node: Node) -> str:
    if node.op == "output":
        return f"return {_argument(node.args[0] if node.args else None)}"
    value = _described(node.meta["val"]) if "val" in node.meta else ""
    head = f"%{node.name}: {value}" if value else f"%{node.name}"
    if node.op == "placeholder":
        return f"{head} = input"
    if node.op == "get_attr":
        return f"{head} = attribute {node.target}"
    arguments = [_argument(argument) for argument in node.args]
    arguments += [f"{key}={_argument(argument)}" for key, argument in node.kwargs.items()]
    return f"{head} = {_target(node)}({', '.join(arguments)})"


def _comment(node: Node) -> str:
    origin, location = origin_of(node), node_location(node)
    parts = [str(origin)] if origin is not None else []
    if location is not None and node.op != "placeholder":
        parts.append(f"{Path(location.file).name}:{location.line}")
    return "; ".join(parts)


def _target(node: Node) -> str:
    target: Any = node.target
    if isinstance(target, (OpOverload, HigherOrderOperator)):
        return str(target)
    if callable(target):
        module = str(getattr(target, "__module__", "")).removeprefix("_")
        return f"{module}.{getattr(target, '__name__', repr(target))}".removeprefix(".")
    return f"{node.op} {target}"


def _argument(value: Any) -> str:
    if isinstance(value, Node):
        return f"%{value.name}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_argument, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, list):
        return f"[{', '.join(map(_argument, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_argument(item)}' for key, item in value.items())}}}"
    if isinstance(value, slice):
        return f"{_argument(value.start)}:{_argument(value.stop)}:{_argument(value.step)}"
    return _SHORT.get(type(value), repr)(value)


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        layout = "" if value.layout is torch.strided else f" {value.layout}"
        device = "" if value.device.type == "cpu" else f" on {value.device}"
        return f"{dtype}[{', '.join(map(str, value.shape))}]{layout}{device}"
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(_described, value))})"
    return "none" if value is None else f"{type(value).__name__} {value}"


_SHORT: Mapping[type, Callable[[Any], str]] = {
    torch.dtype: lambda value: str(value).removeprefix("torch."),
    torch.device: str,
    torch.layout: str,
    torch.memory_format: str,
}
