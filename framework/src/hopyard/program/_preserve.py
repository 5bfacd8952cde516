"""A capture leaves the user's module and inputs as they were."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ..errors import UnsupportedError
from ._containers import Contents
from ._operands import storage_of

_CONTAINERS = ("_parameters", "_buffers", "_modules")
_OF_TORCH = frozenset(Module().__dict__)
"""Attributes that every module has; torch's own code changes them, and no program."""


@contextmanager
def preserved(target: Callable[..., Any]) -> Iterator[None]:
    """Put every attribute of a module and its submodules back when the block ends.

    Attributes that are lists, dictionaries or sets get their content back.

    Raises:
        UnsupportedError: The block bound a tensor to a plain attribute, or put one into a
            container. A graph has no place for it, and the next call of the module would have used
            it.
    """
    if not isinstance(target, Module):
        yield
        return
    snapshots = [
        _Snapshot(f"{name}." if name else "", module) for name, module in target.named_modules()
    ]
    assigned: list[str] = []
    try:
        yield
    finally:
        for snapshot in snapshots:
            assigned += snapshot.restore()
    if assigned:
        raise UnsupportedError(
            f"the program assigns a tensor to {', '.join(assigned)}, which the graph would lose",
            hint="give it a tensor before the capture, "
            f"with register_buffer({assigned[0].rpartition('.')[2]!r}, ...)",
            stage="capture",
        )


@contextmanager
def surroundings_preserved() -> Iterator[None]:
    """Put back what the block changes around it: grad mode, default type and random numbers."""
    grad, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    numbers, python_numbers = torch.get_rng_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_grad_enabled(grad)
        torch.set_default_dtype(dtype)
        torch.set_rng_state(numbers)
        random.setstate(python_numbers)


@contextmanager
def same_storage(names: Sequence[str], values: Sequence[Any]) -> Iterator[None]:
    """Refuse a block that gives one of `values` another storage behind the tracer's back.

    Raises:
        UnsupportedError: The block assigned to the `.data` of an input or of a parameter.
    """
    before = [storage_of(value) for value in values]
    yield
    for name, value, storage in zip(names, values, before, strict=True):
        if storage_of(value) != storage:
            raise UnsupportedError(
                f"the program replaces the data of {name}, which the graph would lose",
                hint="use copy_() instead of assigning to .data",
                stage="capture",
            )


class _Snapshot:
    """The attributes of one module."""

    def __init__(self, prefix: str, module: Module) -> None:
        self._prefix = prefix
        self._module = module
        values = module.__dict__
        copies = {name: dict(values[name]) for name in _CONTAINERS}
        self._before = {**values, **copies}
        self._contents = {
            name: Contents(value)
            for name, value in values.items()
            if isinstance(value, dict | list | set | deque | tuple) and name not in _OF_TORCH
        }

    def restore(self) -> list[str]:
        """Put the attributes back and return those to which tensors had been bound.

        Parameters and buffers that held tensors before are the program's state and not among them.
        Nor are weights that torch's own hooks compute anew before each call.
        """
        assigned = _restore(self._module, self._before)
        assigned += [name for name, contents in self._contents.items() if contents.restore()]
        recomputed = _recomputed(self._module)
        return [self._prefix + name for name in assigned if name not in recomputed]


def _recomputed(module: Module) -> set[str]:
    """Return the attributes that `weight_norm` and `spectral_norm` set before each call."""
    hooks = module._forward_pre_hooks.values()
    return {hook.name for hook in hooks if isinstance(hook, (WeightNorm, SpectralNorm))}


def _restore(module: Module, before: Mapping[str, Any]) -> list[str]:
    """Put `before` back and return the attributes to which tensors had been bound.

    Parameters and buffers that held tensors before are the program's state and not among them.
    """
    values = module.__dict__
    assigned = [
        name
        for name, value in values.items()
        if isinstance(value, Tensor) and before.get(name) is not value
    ]
    assigned += [
        name
        for container in _CONTAINERS
        for name, value in values[container].items()
        if isinstance(value, Tensor) and before[container].get(name) is None
    ]
    for name in [name for name in values if name not in before]:
        del values[name]
    for name, value in before.items():
        if name in _CONTAINERS:
            values[name].clear()
            values[name].update(value)
        elif values.get(name) is not value:
            values[name] = value
    return assigned
