"""Calls of operators: what a cost is computed from, wherever they were found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.fx import Node

from .._torch.dispatch import HigherOrderOperator, OpOverload


@dataclass(frozen=True, slots=True)
class Call:
    """A call of an operator with everything but values.

    Attributes:
        target: The operator; its name if it is not installed.
        args: Positional arguments: trees of :class:`TensorSpec`, :class:`Region` and plain values.
        kwargs: Keyword arguments, likewise.
        result: What the call returns, likewise; None if nothing is known of it.
        modules: Path and type of each module that the call is in, outermost first.
        node: The graph's node, if the call is one.
        problem: Why the arguments are not known; "" if they are.
    """

    target: Any
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    result: Any = None
    modules: tuple[tuple[str, str], ...] = ()
    node: Node | None = None
    problem: str = ""

    @property
    def operator(self) -> str:
        """The operator's name, for example `aten.mm.default` or `cond`."""
        if isinstance(self.target, OpOverload):
            return str(self.target)
        if isinstance(self.target, HigherOrderOperator):
            return str(self.target.name())
        return str(getattr(self.target, "__name__", self.target))


@dataclass(frozen=True, slots=True)
class Region:
    """A graph that an operator is given to run.

    Attributes:
        calls: The calls in it, in order.
        is_lowered: Whether a backend runs something in its place that does the same.
    """

    calls: tuple[Call, ...]
    is_lowered: bool = False
