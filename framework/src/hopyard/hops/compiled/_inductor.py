"""How Inductor lowers a call: by the author's rule, or as the operators it consists of.

A region whose author has no lowering is nothing that Inductor could use, so it is inlined where the
graph for Inductor is traced: before anything decides what the backward keeps and what it computes
again. The compiled code is that of a program without the region.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from torch.fx import Node

from ..._torch.inductor import (
    call_being_lowered,
    graph_of,
    is_inductor_compiling,
    is_inductor_loaded,
    lower_graph,
    register_lowering,
)
from ..._torch.proxies import torch_make_fx
from ..._torch.pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten
from .._returns import KEYWORD, call_as_recorded

if TYPE_CHECKING:
    from .._operator import Operator

SURFACE = "inductor"


def is_inlined(operator: Operator) -> bool:
    """Say whether a compiler is at work on this thread that is to see the operators of a call."""
    if not is_inductor_compiling():
        return False
    register(operator)
    return SURFACE not in operator.definition.rules


def register(operator: Operator) -> None:
    """Let Inductor lower the calls of an operator, if it has been imported."""
    if is_inductor_loaded():
        register_lowering(operator, partial(_lower, operator))


def _lower(operator: Operator, *values: Any, **config: Any) -> Any:
    rule: Any = operator.definition.rules.get(SURFACE)
    if rule is None:
        return _lower_definition(operator, values, config)
    if operator.definition.kind == "region":
        body, *operands = values
        values = (_Body(graph_of(body)), *operands)
    if KEYWORD in config:
        return call_as_recorded(rule, values, config, eager=True)
    return rule(*values, **config)


class _Body:
    """The body of a region for those who lower its call: called with Inductor's values."""

    def __init__(self, graph_module: Any) -> None:
        self._graph_module = graph_module

    def __call__(self, *values: Any) -> Any:
        return lower_graph(copy.deepcopy(self._graph_module), values)


def _lower_definition(operator: Operator, values: Sequence[Any], config: Mapping[str, Any]) -> Any:
    """Lower the operators that a call consists of."""
    count = 1 if operator.definition.kind == "region" else 0
    bodies = [graph_of(value) for value in values[:count]]
    given = tree_map_only(Node, lambda node: node.meta["val"], call_being_lowered().args[count:])
    leaves, spec = tree_flatten(tuple(given))
    specs = []

    def call(*leaves: Any) -> Any:
        # Nothing records it: the compiler that is at work sees through it.
        result = operator(*bodies, *tree_unflatten(list(leaves), spec), **config)
        outputs, output_spec = tree_flatten(result)
        specs.append(output_spec)
        return outputs

    outputs = lower_graph(torch_make_fx(call)(*leaves), tree_leaves(list(values[count:])))
    return tree_unflatten(list(outputs), specs[0])
