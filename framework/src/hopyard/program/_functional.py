"""The captured function as a pure function of parameters, buffers and inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from .._torch.pytree import TreeSpec, tree_flatten, tree_unflatten
from ..errors import UnsupportedError
from ._calling import TensorType


@dataclass(frozen=True)
class State:
    """A module's parameters and buffers; tied ones once.

    Attributes:
        parameters: By qualified name.
        buffers: By qualified name.
        transient: Names of the buffers that `state_dict` leaves out.
    """

    parameters: dict[str, Tensor] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)
    transient: frozenset[str] = frozenset()

    @classmethod
    def of(cls, target: Callable[..., Any]) -> State:
        """Return the state of a module, or none for another callable."""
        if not isinstance(target, Module):
            return cls()
        transient = {
            f"{prefix}.{name}" if prefix else name
            for prefix, module in target.named_modules()
            for name in module._non_persistent_buffers_set
        }
        return cls(
            dict(target.named_parameters()), dict(target.named_buffers()), frozenset(transient)
        )

    @property
    def all(self) -> dict[str, Tensor]:
        """Parameters, then buffers."""
        return {**self.parameters, **self.buffers}


class PureFunction:
    """Calls the target with its state given as arguments.

    A call returns the leaves of the result, then the values of parameters and buffers that the
    target bound to new tensors (`self.count = self.count + 1`), whose names are kept in
    :attr:`rebound`. Changes in place are left to functionalization.
    """

    def __init__(self, target: Callable[..., Any], names: Sequence[str], in_spec: TreeSpec) -> None:
        self._target = target
        self._names = tuple(names)
        self._in_spec = in_spec
        self.out_spec: TreeSpec | None = None
        self.rebound: tuple[str, ...] = ()

    def __call__(self, *leaves: Any) -> list[Any]:
        given = dict(zip(self._names, leaves, strict=False))
        args, kwargs = tree_unflatten(list(leaves[len(given) :]), self._in_spec)
        current = dict(given)
        if isinstance(self._target, Module):
            result = torch.func.functional_call(self._target, current, args, kwargs)
        else:
            result = self._target(*args, **kwargs)
        values, self.out_spec = tree_flatten(result)
        self.rebound = tuple(name for name in self._names if current[name] is not given[name])
        for name in self.rebound:
            _refuse_another_type(name, given[name], current[name])
        return [*values, *(current[name] for name in self.rebound)]


def _refuse_another_type(name: str, before: Tensor, now: object) -> None:
    expected = TensorType.of(before)
    found = TensorType.of(now) if isinstance(now, Tensor) else None
    if found == expected:
        return
    raise UnsupportedError(
        f"the program binds {name} to {found or 'no tensor'} in place of {expected}",
        hint="keep its shape, type and device, or keep what changes outside of the program",
        stage="capture",
    )
