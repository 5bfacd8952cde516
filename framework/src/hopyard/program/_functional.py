"""The captured function as a pure function of parameters, buffers and inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.export.graph_signature import ExportGraphSignature
from torch.nn import Module

from .._torch.pytree import TreeSpec, tree_flatten, tree_unflatten
from ..errors import UnsupportedError
from ._aliases import Alias, find_aliases
from ._calling import TensorType
from ._containers import Contents
from ._sizes import Symbols


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
    :attr:`rebound`. Changes in place are left to functionalization, which makes a new tensor of an
    operand that changes; :meth:`aliases` says which results were operands, or views of operands.

    Args:
        target: The module or function.
        names: The placeholders: those of the state by its qualified names, then the inputs.
        state: The qualified names of parameters and buffers.
        in_spec: The structure of the inputs.
    """

    def __init__(
        self,
        target: Callable[..., Any],
        names: Sequence[str],
        state: Sequence[str],
        in_spec: TreeSpec,
    ) -> None:
        self._target = target
        self._names = tuple(names)
        self._state = tuple(state)
        self._in_spec = in_spec
        self.out_spec: TreeSpec | None = None
        self.rebound: tuple[str, ...] = ()
        self._operands: dict[str, Any] = {}
        self._results: list[Any] = []

    def __call__(self, *leaves: Any) -> list[Any]:
        given = dict(zip(self._state, leaves, strict=False))
        args, kwargs = tree_unflatten(list(leaves[len(given) :]), self._in_spec)
        current = dict(given)
        contents = Contents((args, kwargs))
        if isinstance(self._target, Module):
            result = torch.func.functional_call(self._target, current, args, kwargs)
        else:
            result = self._target(*args, **kwargs)
        values, self.out_spec = tree_flatten(result)
        if contents.changed:
            raise _changed_containers()
        self.rebound = tuple(name for name in self._state if current[name] is not given[name])
        for name in self.rebound:
            _refuse_another_type(name, given[name], current[name])
        self._operands, self._results = dict(zip(self._names, leaves, strict=True)), values
        return [*values, *(current[name] for name in self.rebound)]

    def aliases(self, signature: ExportGraphSignature, symbols: Symbols) -> tuple[Alias, ...]:
        """Return which results share memory with an operand when the call has ended.

        A view whose sizes depend on data is left as the graph computes it.

        Ask when the capture has ended: the user's modes would see the questions.
        """
        # What was bound to another tensor is no longer the one that the result shares memory with.
        bound = {spec.arg.name for spec in signature.input_specs if spec.target in self.rebound}
        read = {each.symbol for each in symbols.ranges}
        return tuple(
            alias
            for alias in find_aliases(self._results, self._operands)
            if alias.operand not in bound and (alias.view is None or alias.view.symbols <= read)
        )


def _changed_containers() -> UnsupportedError:
    return UnsupportedError(
        "the program changes a list or dictionary that it is given, which the graph would lose",
        hint="let it make and return a new one",
        stage="capture",
    )


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
