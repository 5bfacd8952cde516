"""How Inductor lowers a call: by the author's rule, or as the operators it consists of.

A region whose author has no lowering is nothing that Inductor could use, so it is inlined where the
graph for Inductor is traced: before anything decides what the backward keeps and what it computes
again. The compiled code is that of a program without the region.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
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
from ..._torch.pytree import tree_map_only

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
    rule = operator.definition.rules.get(SURFACE)
    if operator.definition.kind == "operator":
        lowering = rule or partial(_lower_definition, operator)
        return lowering(*values, **config)
    body, *operands = values
    graph_module = graph_of(body)
    if rule is not None:
        return rule(_Body(graph_module), *operands, **config)
    if operator.runs_its_body:
        return _Body(graph_module)(*operands)
    return _lower_definition(operator, *operands, body=graph_module, **config)


class _Body:
    """The body of a region for those who lower its call: called with Inductor's values."""

    def __init__(self, graph_module: Any) -> None:
        self._graph_module = graph_module

    def __call__(self, *values: Any) -> Any:
        return lower_graph(copy.deepcopy(self._graph_module), values)


def _lower_definition(
    operator: Operator, *values: Any, body: Callable[..., Any] | None = None, **config: Any
) -> Any:
    """Lower the operators that the eager definition consists of."""
    given = call_being_lowered().args[0 if body is None else 1 :]
    examples = tree_map_only(Node, lambda node: node.meta["val"], given)
    before = () if body is None else (body,)

    def call(*operands: Any) -> Any:
        return operator.definition.eager(*before, *operands, **config)

    return lower_graph(torch_make_fx(call)(*examples), values)
