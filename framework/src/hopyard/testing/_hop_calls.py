"""A sample call of a higher-order operator, and what its meaning is compared by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.nn import Module

from .._torch.dispatch import HigherOrderOperator
from .._torch.pytree import tree_flatten, tree_leaves, tree_unflatten
from ..hops import Operator
from ._effects import observed_effects, same_effects


@dataclass(frozen=True)
class HopSample:
    """A call of a higher-order operator.

    Attributes:
        args: The body and the operands of a region, or the operands of an operator without a body.
            Floating-point tensors among them are differentiated.
        kwargs: Configuration.
        name: Tells samples apart in reports.
        call: The program that is called with them, if that is not the operator itself but something
            that applies it; it means on every surface what it computes in eager.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    name: str = "sample"
    call: Callable[..., Any] | None = None

    def __str__(self) -> str:
        return self.name


class Call:
    """A sample as a function of its tensors: of the operator, or of what the operator means."""

    def __init__(self, function: Callable[..., Any], sample: HopSample) -> None:
        self._function = function
        self._kwargs = dict(sample.kwargs)
        self._leaves, self._spec = tree_flatten(sample.args)
        self._places = [place for place, leaf in enumerate(self._leaves) if is_tensor(leaf)]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors of the sample, anew."""
        made = []
        for place in self._places:
            tensor = self._leaves[place].detach().clone()
            differentiable = tensor.is_floating_point() or tensor.is_complex()
            made.append(tensor.requires_grad_(differentiable))
        return tuple(made)

    def __call__(self, *tensors: Tensor) -> Any:
        leaves = list(self._leaves)
        for place, tensor in zip(self._places, tensors, strict=True):
            leaves[place] = tensor
        return self._function(*tree_unflatten(leaves, self._spec), **self._kwargs)

    def results(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors that the call returns, for surfaces that know nothing else."""
        return tuple(each for each in tree_leaves(self(*tensors)) if is_tensor(each))

    @property
    def has_results(self) -> bool:
        """Whether it returns tensors; without, there is nothing to transform or to keep."""
        with torch.no_grad():
            return bool(self.results(*self.tensors))


def is_tensor(value: Any) -> bool:
    """Say whether a leaf is a tensor."""
    return isinstance(value, Tensor)


def both(operator: HigherOrderOperator, sample: HopSample) -> tuple[Call, Call]:
    """Return a sample as a call of the operator, and as a call of what the operator means."""
    if sample.call is not None:
        return Call(sample.call, sample), Call(sample.call, sample)
    meant = operator.definition.eager if isinstance(operator, Operator) else operator
    return Call(operator, sample), Call(meant, sample)


def agree(found: Callable[..., Any], meant: Call, told: str) -> None:
    """Compare results, gradients and what tensors are in.

    Raises:
        AssertionError: They differ; `told` is what the message calls the one that was found.
    """
    expected = observed_effects(meant, meant.tensors)
    actual = observed_effects(found, meant.tensors)
    if len(actual) != len(expected):
        raise AssertionError(f"{told} returns another number of tensors")
    if not same_effects(expected, actual):
        raise AssertionError(f"{told} has other results or gradients than the eager definition")
    with torch.no_grad():
        if _structure(found(*meant.tensors)) != _structure(meant(*meant.tensors)):
            raise AssertionError(f"{told} returns other containers or constants")


def _structure(value: Any) -> tuple[Any, ...]:
    leaves, spec = tree_flatten(value)
    return spec, ["a tensor" if is_tensor(leaf) else leaf for leaf in leaves]


def kept(graph_module: GraphModule, operator: HigherOrderOperator, told: str) -> None:
    """Look for the call in a graph and its bodies.

    Raises:
        AssertionError: No node holds it; `told` is what the message calls the graph.
    """
    bodies = [each for each in graph_module.modules() if isinstance(each, GraphModule)]
    if not any(
        body.graph.find_nodes(op="call_function", target=operator, sort=False) for body in bodies
    ):
        raise AssertionError(f"{told} does not hold the call as a node")


class Program(Module):
    """A call as a module, which `torch.export` takes."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call = call

    def forward(self, *tensors: Tensor) -> Any:
        return self._call.results(*tensors)


def same(found: Any, expected: Any) -> bool:
    """Say whether two results have the same tensors, gradients aside."""
    with torch.no_grad():
        return same_effects(_detached(found), _detached(expected))


def _detached(value: Any) -> list[Tensor]:
    return [each.detach() for each in tree_leaves(value) if isinstance(each, Tensor)]
