"""`fold-constants`: what depends on constants alone is computed once."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from hopyard.operators import OpOverload
from hopyard.pipeline import derive_metadata
from hopyard.program import Program, StateEditor

from ._compare import describe
from ._effects import is_pure, is_removable, sharing_with_output
from ._values import leaves_of

if TYPE_CHECKING:
    from hopyard.session import Session


@dataclass(frozen=True)
class FoldConstants:
    """Compute what depends on constants alone, and make the results constants of the program.

    A node is folded if its operator is deterministic and has no effect, its operands are constants
    that no call of the program writes to, and its result has data. Views, and what is made of no
    tensor such as `arange`, cost little and stay unless something that is folded uses them. What
    shares memory with results of the program stays as well, since a caller may write to it, and so
    do graphs that write to a tensor and the bodies of regions.

    Attributes:
        freeze: Whether parameters and buffers that the program does not write count as constants.
            Later changes of them then have no effect, and no gradients reach them.
        largest: The greatest size in bytes of a result that is larger than its operands together.
    """

    freeze: bool = False
    largest: int = 2**20

    def __post_init__(self) -> None:
        if self.largest < 0:
            raise ValueError(f"largest is a size in bytes, not {self.largest}")

    def __call__(self, program: Program, session: Session) -> Program:
        """Return the folded program."""
        graph_module = program.graph_module
        if not is_pure(graph_module):
            return program
        editor = StateEditor(program)
        constants = editor.fixed(state=self.freeze)
        with torch.inference_mode(False), torch.no_grad(), _without_autocast(constants):
            values = self._computed(graph_module, constants)
        chosen = _chosen(graph_module, values, constants)
        if not chosen:
            return program
        for node in chosen:
            new = editor.add(values[node])
            meta = dict(new.meta)
            derive_metadata(new, [node])
            new.meta.update(meta)
            node.replace_all_uses_with(new)
        for node in reversed(list(graph_module.graph.nodes)):
            if node in values and node not in constants and not node.users:
                graph_module.graph.erase_node(node)
        editor.drop_unused(constants)
        return editor.finish()

    def _computed(
        self, graph_module: GraphModule, constants: Mapping[Node, Tensor]
    ) -> dict[Node, Any]:
        """Return the values of constants and of all nodes that follow from them."""
        values: dict[Node, Any] = dict(constants)
        for node in graph_module.graph.nodes:
            if node.op != "call_function" or not values.keys() >= set(node.all_input_nodes):
                continue
            if not _is_foldable(graph_module, node) or not self._is_small(node, values):
                continue
            target: Any = node.target
            args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
            value = target(*args, **kwargs)
            if describe(value) == describe(node.meta.get("val")):
                values[node] = value
        return values

    def _is_small(self, node: Node, values: Mapping[Node, Any]) -> bool:
        size = sum(map(_bytes, leaves_of(node.meta.get("val"))))
        given = sum(_bytes(leaf) for n in node.all_input_nodes for leaf in leaves_of(values[n]))
        return size <= max(given, self.largest)


def _is_foldable(graph_module: GraphModule, node: Node) -> bool:
    if node.target is not operator.getitem and not isinstance(node.target, OpOverload):
        return False
    recorded = leaves_of(node.meta.get("val"))
    return (
        is_removable(graph_module, node)
        and not node.meta.get("unbacked_bindings")
        and all(isinstance(leaf, Tensor) and _is_plain(leaf) for leaf in recorded)
    )


def _is_plain(tensor: Tensor) -> bool:
    sizes = (*tensor.shape, *tensor.stride()) if tensor.layout is torch.strided else ("",)
    return all(type(size) is int for size in sizes) and tensor.device.type != "meta"


def _chosen(
    graph_module: GraphModule, values: Mapping[Node, Any], constants: Mapping[Node, Tensor]
) -> list[Node]:
    """Return the nodes whose results become constants: those that something else needs."""
    shared = sharing_with_output(graph_module)
    chosen: list[Node] = []
    needed: set[Node] = set()
    for node in reversed(graph_module.graph.nodes):
        if node not in values:
            needed.update(node.all_input_nodes)
        elif node in needed and node not in constants:
            if node not in shared and _is_worth_it(node, values):
                chosen.append(node)
            else:
                needed.update(node.all_input_nodes)
    return chosen[::-1]


def _is_worth_it(node: Node, values: Mapping[Node, Any]) -> bool:
    """Say whether a node is more than a view, and made from something."""
    if not isinstance(values[node], Tensor) or not node.all_input_nodes:
        return False
    if node.target is operator.getitem:
        return True
    storage = values[node].untyped_storage().data_ptr()
    operands = [leaf for each in node.all_input_nodes for leaf in leaves_of(values[each])]
    tensors = [leaf for leaf in operands if isinstance(leaf, Tensor)]
    return all(storage != tensor.untyped_storage().data_ptr() for tensor in tensors)


def _bytes(value: Any) -> int:
    return math.prod(value.shape) * value.element_size() if isinstance(value, Tensor) else 0


def _without_autocast(constants: Mapping[Node, Tensor]) -> Any:
    from contextlib import ExitStack

    stack = ExitStack()
    for device in {"cpu", *(tensor.device.type for tensor in constants.values())}:
        if torch.amp.is_autocast_available(device):
            stack.enter_context(torch.autocast(device, enabled=False))
    return stack
