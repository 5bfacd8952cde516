"""The pass `fold-scale`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch.fx import GraphModule, Node

from hopyard_hookspecs import PassResult

MULTIPLICATIONS = (torch.ops.aten.mul.Tensor, torch.ops.aten.mul.Scalar)
PRECISIONS = (torch.float32, torch.float64)


@dataclass(frozen=True)
class FoldScale:
    """Fold each chain of multiplications by Python numbers into one multiplication.

    Args:
        factor: How far the merged constant may lie from 1: a chain is folded if the magnitude of
            its product is between `1 / factor` and `factor`.

    Raises:
        ValueError: `factor` is less than 1 or not finite.
    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        if not (1.0 <= self.factor < math.inf):
            raise ValueError(f"factor must be a finite number of at least 1, not {self.factor!r}")

    def __call__(self, graph_module: GraphModule, /) -> PassResult:
        """Fold what can be folded; `modified` says whether there was anything."""
        last_links = [node for node in graph_module.graph.nodes if _is_last_link(node)]
        folded = [node for node in last_links if self._fold(graph_module, node)]
        if folded:
            graph_module.recompile()
        return PassResult(graph_module, modified=bool(folded))

    def _fold(self, graph_module: GraphModule, last: Node) -> bool:
        first, *rest = chain = _chain(last)
        scale = math.prod(_constant(link) for link in chain)
        if not rest or not 1 / self.factor <= abs(scale) <= self.factor:
            return False
        # The first link stays where it is: later on its operand might have been changed in place.
        # Shape and precision are the same along the chain, so its metadata stays right.
        first.args = (first.args[0], scale)
        last.replace_all_uses_with(first)
        for link in reversed(rest):
            graph_module.graph.erase_node(link)
        return True


def _chain(last: Node) -> list[Node]:
    """Return `last` and the multiplications that feed it and nothing else, in order."""
    chain = [last]
    while _is_link(previous := chain[0].args[0]) and len(previous.users) == 1:
        chain.insert(0, previous)
    return chain


def _is_last_link(node: Node) -> bool:
    """Say whether a chain ends at `node`: no single multiplication carries it on."""
    return _is_link(node) and not (len(node.users) == 1 and _is_link(next(iter(node.users))))


def _is_link(node: object) -> TypeGuard[Node]:
    """Say whether `node` multiplies a tensor by a real number and keeps the tensor's precision."""
    if not isinstance(node, Node) or node.target not in MULTIPLICATIONS or len(node.args) != 2:
        return False
    operand, constant = node.args
    if type(constant) not in (int, float) or not isinstance(operand, Node):
        return False
    precision = _precision(node)
    return precision in PRECISIONS and precision == _precision(operand)


def _precision(node: Node) -> torch.dtype | None:
    value = node.meta.get("val")
    return value.dtype if isinstance(value, torch.Tensor) else None


def _constant(link: Node) -> float:
    constant = link.args[1]
    assert isinstance(constant, int | float), "only multiplications by a number are links"
    return float(constant)
