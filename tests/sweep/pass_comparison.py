"""Whether two passes made the same graph: targets, arguments, metadata and source lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_map

KEPT = (
    "stack_trace",
    "nn_module_stack",
    "source_fn_stack",
    "torch_fn",
    "custom",
    "tag",
    "original_aten",
)
"""What a pass hands on. `from_node`, which torch's base makes anew, names nodes of other graphs."""


@dataclass(frozen=True)
class Other:
    """What another pass base does otherwise than ours.

    Attributes:
        descended: The operators whose bodies it replays.
        binds: Whether it says anew which symbols a node brings about.
    """

    descended: tuple[Any, ...]
    binds: bool


_hops = torch.ops.higher_order
TORCH = Other((_hops.cond, _hops.map_impl), binds=True)
EXECUTORCH = Other((_hops.cond, _hops.map_impl, _hops.while_loop, _hops.scan), binds=False)

_SYMBOL = re.compile(r"\b(u|zuf)\d+\b")
_FRAME_OF_A_BASE = re.compile(
    r' *File "[^"]*/(fx|exir|_export|hopyard_export_pass)/[^"]*'
    r'(base|interpreter|_replay|_tracer)\.py", line .*\n.*\n?'
)
"""A pass that describes its nodes by its own line is seen in the calls of its base."""


class Read:
    """What a graph reads: the same object, or where passes had graphs of their own, the same value.

    Attributes:
        value: A tensor, or a module that is no body.
    """

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Read) or type(self.value) is not type(other.value):
            return False
        if self.value is other.value or not isinstance(self.value, Tensor):
            return self.value is other.value
        one, another = self.value.detach(), other.value.detach()
        is_same_kind = (one.dtype, one.stride()) == (another.dtype, another.stride())
        # As bytes, among which NaN is equal to itself.
        return is_same_kind and torch.allclose(one, another, rtol=0, atol=0, equal_nan=True)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{self.value}>"


def difference(ours: GraphModule, theirs: GraphModule, other: Other = TORCH) -> str:
    """Return the first difference between what our base made and what theirs did; "" for none.

    Names of nodes do not count: we keep those that the graph had. Neither do names of attributes,
    which we keep as well, nor names of symbols that are made anew.

    Args:
        ours: What a pass on our base made.
        theirs: What it made on another.
        other: The base of that pass.
    """
    one, another = list(_content(ours, {}, other)), list(_content(theirs, {}, other))
    for left, right in zip(one, another, strict=False):
        if left != right:
            return f"ours:   {left}\ntheirs: {right}"
    if len(one) == len(another):
        return ""
    return f"{len(one)} nodes of ours, {len(another)} of theirs"


def _content(
    graph_module: GraphModule, symbols: dict[str, str], other: Other, *, is_body: bool = False
) -> Iterator[Any]:
    bound: set[Any] = set()
    nodes = [node for node in graph_module.graph.nodes if node.op != "get_attr"]
    positions = {node: position for position, node in enumerate(nodes)}

    def argument(value: Any) -> Any:
        if isinstance(value, Node):
            if value.op != "get_attr":
                return f"<{positions[value]}>"
            found = attribute(graph_module, str(value.target))
            return "body" if isinstance(found, GraphModule) else Read(found)
        if isinstance(value, (list, tuple)):
            # torch's base turns the tuple of a condition's operands into a list.
            return [argument(item) for item in value]
        if isinstance(value, dict):
            return {key: argument(item) for key, item in value.items()}
        if isinstance(value, slice):
            return [argument(item) for item in (value.start, value.stop, value.step)]
        if isinstance(value, str):
            # Messages name symbols that earlier replays have replaced.
            return _SYMBOL.sub("u", value)
        return _renamed(str(value), symbols)

    for node in nodes:
        meta = node.meta
        # torch's base leaves bindings on nodes that inherit the metadata of the node that has them.
        bindings = {
            symbol: path
            for symbol, path in (meta.get("unbacked_bindings") or {}).items()
            if re.search(rf"\b{symbol}\b", str(tree_map(_shape, meta.get("val"))))
        }
        yield (
            node.op,
            str(node.target),
            argument(node.args),
            argument(node.kwargs),
            # torch's base describes the output as well.
            None if node.op == "output" else _described(meta.get("val"), symbols),
            # Theirs gives the output of a body without metadata what is said of the call around it.
            {}
            if is_body and node.op == "output"
            else {key: _told(meta[key]) for key in KEPT if key in meta},
            len(bindings.keys() - bound) if other.binds else None,
        )
        bound |= bindings.keys()
        if node.target in other.descended:
            for operand in node.args:
                if isinstance(operand, Node) and operand.op == "get_attr":
                    body = attribute(graph_module, str(operand.target))
                    if isinstance(body, GraphModule):
                        yield from _content(body, symbols, other, is_body=True)


def attribute(module: torch.nn.Module, target: str) -> Any:
    value: Any = module
    for name in target.split("."):
        value = getattr(value, name)
    return value


def _described(value: Any, symbols: dict[str, str]) -> Any:
    def leaf(each: Any) -> Any:
        if isinstance(each, Tensor):
            text = f"{each.dtype} {tuple(each.shape)} {each.device}"
            if each.layout == torch.strided:
                text += f" {tuple(each.stride())}"
            return _renamed(text, symbols)
        return _renamed(str(each), symbols)

    return tree_map(leaf, list(value) if isinstance(value, tuple) else value)


def _shape(value: Any) -> Any:
    return tuple(map(str, value.shape)) if isinstance(value, Tensor) else str(value)


def _renamed(text: str, symbols: dict[str, str]) -> str:
    return _SYMBOL.sub(lambda found: symbols.setdefault(found[0], f"u#{len(symbols)}"), text)


def _told(value: Any) -> str:
    return re.sub(r"0x[0-9a-f]+", "0x", _FRAME_OF_A_BASE.sub("", str(value)))
