"""Custom autograd functions, whose backward is not among a graph's operators."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils.checkpoint import CheckpointFunction

from hopyard.safeguards import function_applied
from hopyard_hookspecs import (
    Finding,
    Moment,
    ObservedCall,
    Recording,
    SourceLocation,
    Suspicion,
    Watch,
)

from ._hazards import BACKWARD_LOST


def watch() -> Watch:
    """Return what to look at during one capture."""
    applications = Applications()
    return Watch(functions={function_applied: applications.check}, review=applications.review)


@dataclass(slots=True)
class Applications:
    """The custom functions of one capture.

    A forward that calls functions of torch is seen while it runs. One that does not, such as one
    that returns its input, is found in the autograd history of the result.
    """

    _ends: list[Moment] = field(default_factory=list)
    _seen: set[type[Function]] = field(default_factory=set)

    def check(self, call: ObservedCall) -> Suspicion | None:
        """Suspect a function whose forward computes what has a gradient."""
        function, running, location = call.args
        if not running:
            self._ends.append(call.moment)
            return None
        self._seen.add(function)
        if is_faithful(function):
            return None
        position, finding = len(self._ends), _lost(function, location)

        def confirm(recording: Recording) -> Finding | None:
            end = self._ends[position] if position < len(self._ends) else None
            computed = recording.between(call.moment, end)
            return finding if any(map(recording.gradient_flow.carries, computed)) else None

        return Suspicion(finding, confirm)

    def review(self, recording: Recording) -> Iterator[Finding]:
        """Report functions that only the history of the result tells of."""
        for function in _history(recording):
            if function not in self._seen and not is_faithful(function):
                yield _lost(function, _definition(function))


def is_faithful(function: type[Function]) -> bool:
    """Say whether a function's backward is known to be the derivative of its forward.

    Checkpointing computes the same later, and torch's and Hopyard's own functions stand for
    operators that graphs hold as such.
    """
    if function is CheckpointFunction:
        return True
    module = function.__module__
    return module.startswith(("torch._", "torch.ops", "hopyard."))


def _lost(function: type[Function], location: SourceLocation | None) -> Finding:
    return Finding(
        BACKWARD_LOST.code,
        f"{function.__qualname__} has a backward of its own, and gradients through the graph would "
        "be those of its forward",
        location=location,
    )


def _definition(function: type[Function]) -> SourceLocation | None:
    code = inspect.unwrap(function.forward).__code__
    return SourceLocation(code.co_filename, code.co_firstlineno, code.co_qualname)


def _history(recording: Recording) -> set[type[Function]]:
    """Return the custom functions that the result's gradients would pass in eager."""
    results = [each for each in recording.result or () if isinstance(each, Tensor)]
    stack: list[Any] = [each.grad_fn for each in results if each.grad_fn is not None]
    seen: set[Any] = set()
    found: set[type[Function]] = set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            found.add(node._forward_cls)  # type: ignore[attr-defined]
        stack += [each for each, _ in node.next_functions]
    return found
