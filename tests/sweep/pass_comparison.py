"""Whether two passes made the same graph: targets, arguments, metadata and source lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
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

DESCENDED = (torch.ops.higher_order.cond, torch.ops.higher_order.map_impl)
"""The operators whose bodies torch's base replays."""

_SYMBOL = re.compile(r"\b(u|zuf)\d+\b")


def difference(ours: GraphModule, theirs: GraphModule) -> str:
    """Return the first difference between what our base made and what theirs did; "" for none.

    Names of nodes do not count: we keep those that the graph had. Neither do names of attributes,
    which we keep as well, nor names of symbols that are made anew.
    """
    one, other = list(_content(ours, {})), list(_content(theirs, {}))
    for left, right in zip(one, other, strict=False):
        if left != right:
            return f"ours:   {left}\ntheirs: {right}"
    return "" if len(one) == len(other) else f"{len(one)} nodes of ours, {len(other)} of theirs"


def _content(graph_module: GraphModule, symbols: dict[str, str]) -> Iterator[Any]:
    bound: set[Any] = set()
    nodes = [node for node in graph_module.graph.nodes if node.op != "get_attr"]
    positions = {node: position for position, node in enumerate(nodes)}

    def argument(value: Any) -> Any:
        if isinstance(value, Node):
            if value.op != "get_attr":
                return f"<{positions[value]}>"
            found = attribute(graph_module, str(value.target))
            return "body" if isinstance(found, GraphModule) else f"<{id(found)}>"
        if isinstance(value, (list, tuple)):
            # torch's base turns the tuple of a condition's operands into a list.
            return [argument(item) for item in value]
        if isinstance(value, dict):
            return {key: argument(item) for key, item in value.items()}
        if isinstance(value, slice):
            return [argument(item) for item in (value.start, value.stop, value.step)]
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
            {key: _told(meta[key]) for key in KEPT if key in meta},
            len(bindings.keys() - bound),
        )
        bound |= bindings.keys()
        if node.target in DESCENDED:
            for operand in node.args:
                if isinstance(operand, Node) and operand.op == "get_attr":
                    body = attribute(graph_module, str(operand.target))
                    if isinstance(body, GraphModule):
                        yield from _content(body, symbols)


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
    return re.sub(r"0x[0-9a-f]+", "0x", str(value))
