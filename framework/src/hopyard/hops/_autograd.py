"""Gradients of a call that a tracer records.

The call stays one node, and what autograd would have recorded inside it becomes a graph of its own,
which is made when the call is: the body may mean something else by the time of the backward.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._torch.dispatch import below_autograd, infra_mode, without_autocast
from .._torch.functional import FUNCTIONAL_SLOT
from .._torch.predispatch import is_dual_level_entered
from .._torch.pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten
from ._captures import Lifted, name_of
from ._examination import Examination, NotExaminable, examine

if TYPE_CHECKING:
    from ._operator import Operator


class GradientWanted(Exception):
    """A body that was called below autograd captures a tensor that requires grad."""


class _Listening(threading.local):
    active = False


_listening = _Listening()


def record_gradient(operator: Operator, *args: Any, **kwargs: Any) -> Any:
    """Call the operator below autograd, with a gradient of its own if one may be wanted.

    A gradient is wanted if an operand requires grad or something that the body captures does. Where
    a graph of the gradient would not say all that autograd would, autograd sees the operators of
    the eager definition instead: if nothing records the call, under forward-mode differentiation,
    and if the body draws random numbers, writes to what it is given or returns a view of it.

    Raises:
        UnsupportedError: The body captures what cannot become an operand.
    """
    if not operator.is_recorded(args, kwargs) or is_dual_level_entered():
        return operator.see_through(*args, **kwargs)
    if not torch.is_grad_enabled():
        with below_autograd():
            return operator(*args, **kwargs)
    wanted = any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(args))
    if operator.definition.kind == "operator":
        return _record_operator(operator, args, kwargs, wanted)
    # Functional tensors do not tell, below autograd, whether they require grad.
    if not wanted and infra_mode(FUNCTIONAL_SLOT) is None:
        try:
            with _heard(), below_autograd():
                return operator(*args, **kwargs)
        except GradientWanted:
            pass
    body, operands = args[0], args[1:]
    call = functools.partial(operator.definition.eager, body, **kwargs)
    try:
        found = examine(call, operands, gradient=True, body=body, operator=operator)
    except NotExaminable:
        return operator.see_through(*args, **kwargs)
    if found.gradient is None:
        return _below(operator, args, kwargs)
    if _must_be_seen(found):
        return operator.see_through(*args, **kwargs)
    operator.check_captures(body, found.captured)
    return _Call(operator, body, operands, kwargs, found).apply()


def _record_operator(
    operator: Operator, args: tuple[Any, ...], kwargs: dict[str, Any], wanted: bool
) -> Any:
    if "fake" in operator.definition.rules:
        # Only the fake rule knows what to do with the values of a capture.
        return operator.see_through(*args, **kwargs) if wanted else _below(operator, args, kwargs)
    call = functools.partial(operator.definition.eager, **kwargs)
    try:
        found = examine(call, args, gradient=True, body=call, operator=operator)
    except NotExaminable:
        return operator.see_through(*args, **kwargs)
    if found.gradient is None:
        return _below(operator, args, kwargs)
    # There is no body to give what the eager definition captures.
    if found.captured or _must_be_seen(found):
        return operator.see_through(*args, **kwargs)
    return _Call(operator, None, args, kwargs, found).apply()


def _below(operator: Operator, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    with below_autograd():
        return operator(*args, **kwargs)


def refuse_lost_gradients(
    operator: Operator, body: Callable[..., Any], captured: Sequence[Any]
) -> None:
    """Give notice of captured tensors whose gradient a node below autograd would not have.

    Raises:
        GradientWanted: There is one, and the rule for autograd is about to ask for it.
        UnsupportedError: There is one, and nobody asks.
    """
    for tensor in captured:
        if not (_is_tensor(tensor) and tensor.requires_grad and torch.is_grad_enabled()):
            continue
        if _listening.active:
            raise GradientWanted
        name = name_of(tensor, body)
        raise operator.refusal(
            f"captures {repr(name) if name else 'a tensor'}, which requires grad, and its gradient "
            "would be lost",
            "pass the tensor as an operand, or capture under torch.no_grad()",
        )


@contextmanager
def _heard() -> Generator[None, None, None]:
    before, _listening.active = _listening.active, True
    try:
        yield
    finally:
        _listening.active = before


def _must_be_seen(found: Examination) -> bool:
    effects = found.effects
    writes = bool(effects.written) or effects.writes_constants
    return writes or effects.is_aliasing or effects.random


@dataclass
class _Call:
    """One call, as the function that autograd is told of.

    Attributes:
        inputs: The leaves of the operands, then the tensors and numbers that the body captures.
        differentiated: Which of them have a gradient.
        fresh: Which leaves of the result are tensors that the call made, once it has run.
        result: The leaves of the result and their structure, once it has run.
    """

    operator: Operator
    body: Callable[..., Any] | None
    operands: tuple[Any, ...]
    config: dict[str, Any]
    found: Examination
    inputs: list[Any] = field(init=False)
    differentiated: list[int] = field(init=False)
    fresh: list[int] = field(init=False)
    result: tuple[list[Any], TreeSpec] = field(init=False)

    def __post_init__(self) -> None:
        leaves, self._spec = tree_flatten(tuple(self.operands))
        self._count = len(leaves)
        self.inputs = [*leaves, *self.found.captured, *self.found.numbers]
        # Autograd would look at how the others were made, if only to give them no gradient.
        assert self.found.gradient is not None
        self.differentiated = sorted(self.found.gradient.wanted)

    def apply(self) -> Any:
        """Run the call."""
        made = _Recorded.apply(self, *[self.inputs[index] for index in self.differentiated])
        leaves, spec = self.result
        for index, tensor in zip(self.fresh, made, strict=True):
            leaves[index] = tensor
        # What the call returns as it was given has the gradient that it had.
        for index, place in self.found.effects.same:
            leaves[index] = self.inputs[place]
        del self.result
        return tree_unflatten(leaves, spec)

    def forward(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Run the call below autograd and return the tensors that it made."""
        inputs = list(self.inputs)
        for index, tensor in zip(self.differentiated, tensors, strict=True):
            inputs[index] = tensor
        count = self._count + len(self.found.captured)
        operands = list(tree_unflatten(inputs[: self._count], self._spec))
        operands += inputs[self._count : count]
        if self.body is not None:
            operands.insert(0, Lifted(self.body, self.found.captured))
        with below_autograd():
            leaves, spec = tree_flatten(self.operator(*operands, **self.config))
        self.result = leaves, spec
        same = dict(self.found.effects.same)
        self.fresh = [
            index for index, leaf in enumerate(leaves) if _is_tensor(leaf) and index not in same
        ]
        return tuple(leaves[index] for index in self.fresh)

    def backward(self, saved: Sequence[Any], gradients: Sequence[Tensor]) -> list[Tensor | None]:
        """Return the gradients of the inputs that are differentiated."""
        gradient = self.found.gradient
        assert gradient is not None
        given = dict(zip(self.fresh, gradients, strict=True))
        values = iter(saved)
        arguments = []
        for place in gradient.takes:
            if place < len(self.inputs):
                value = self.inputs[place]
                arguments.append(next(values) if _is_tensor(value) else value)
            else:
                output = place - len(self.inputs)
                arguments.append(_laid_out(given[output], gradient.layouts[output]))
        # The casts of the forward are in the graph.
        with without_autocast():
            if self.operator.runs_its_body:
                found = self.operator(gradient.graph_module, *arguments, **self.config)
            else:
                found = gradient.graph_module(*arguments)
        results = dict(zip(gradient.wanted, found, strict=True))
        return [results.get(index) for index in self.differentiated]

    @property
    def saved(self) -> list[int]:
        """The tensors among the inputs that the gradient is computed from."""
        assert self.found.gradient is not None
        inputs = [place for place in self.found.gradient.takes if place < len(self.inputs)]
        return [place for place in inputs if _is_tensor(self.inputs[place])]


class _Recorded(torch.autograd.Function):
    """A call with its gradient."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run the call."""
        ctx.call = call
        given = dict(enumerate(call.inputs))
        given.update(zip(call.differentiated, tensors, strict=True))
        ctx.save_for_backward(*[given[index] for index in call.saved])
        made = call.forward(tensors)
        differentiable = call.found.differentiable
        plain = [t for i, t in zip(call.fresh, made, strict=True) if i not in differentiable]
        ctx.mark_non_differentiable(*plain)
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        """Run the graph of the gradient."""
        with torch.no_grad():
            found = ctx.call.backward(ctx.saved_tensors, gradients)
        if torch.is_grad_enabled():
            sources = [each for each in (*ctx.saved_tensors, *gradients) if each.requires_grad]
            operator = ctx.call.operator
            found = [
                each if each is None else _Once.apply(operator, each, *sources) for each in found
            ]
        return None, *found


class _Once(torch.autograd.Function):
    """A gradient that has none of its own: what the body did without autograd, it would forget."""

    @staticmethod
    def forward(ctx: Any, operator: Operator, gradient: Tensor, *sources: Tensor) -> Tensor:
        """Return the gradient."""
        ctx.operator = operator
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        """Refuse."""
        raise ctx.operator.refusal(
            "is differentiated twice in a capture",
            "differentiate twice outside of the capture, or give the operator a rule for "
            "'autograd' that runs its body",
        )


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _laid_out(gradient: Tensor, layout: tuple[int, ...]) -> Tensor:
    """Return a gradient in the layout of the one that its graph was traced with."""
    inverse = sorted(range(len(layout)), key=layout.__getitem__)
    if inverse == list(layout) == list(range(len(layout))):
        return gradient.contiguous()
    return gradient.permute(layout).contiguous().permute(inverse)
