"""Lowered partitions as modules, and what calling one computes."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx import GraphModule
from torch.nn import Module

from hopyard.errors import ProgramError, UsageError
from hopyard.hops import bind, is_eager
from hopyard_hookspecs import BackendImplementation, Lowered

from ._hop import CALL_DELEGATE
from ._types import ValueType, all_accept, described, output_types

_ATTRIBUTES = (
    "original_module",
    "backend_id",
    "processed_bytes",
    "compile_specs",
    "named_data",
    "meta",
)

call_delegate = bind(CALL_DELEGATE)
"""Run a lowered partition: `call_delegate(lowered_module, *operands)` returns a tuple."""


class LoweredModule(Module):
    """A partition in a backend's form, as a graph holds it.

    Calling it calls :data:`call_delegate`, so that a tracer records one operator. It is not changed
    once it exists; a deep copy shares the backend. The reference graph is no submodule of it: what
    walks a program's modules does not find the partition's operators a second time.

    Args:
        lowered: What the backend made of the partition.
        implementation: The backend that runs it.
    """

    def __init__(self, lowered: Lowered, implementation: BackendImplementation) -> None:
        super().__init__()
        self.lowered = lowered
        self._implementation = implementation
        self._output_types = output_types(lowered.original_module)

    @property
    def original_module(self) -> GraphModule:
        """The reference graph, which says what the partition means."""
        return self.lowered.original_module

    @property
    def backend_id(self) -> str:
        """The name of the backend."""
        return self.lowered.backend_id

    @property
    def processed_bytes(self) -> bytes:
        """What the backend's runtime reads."""
        return self.lowered.processed_bytes

    @property
    def compile_specs(self) -> Mapping[str, Any]:
        """The options that the partition was lowered with."""
        return self.lowered.compile_specs

    @property
    def named_data(self) -> Mapping[str, bytes]:
        """Blobs shared between partitions."""
        return self.lowered.named_data

    @property
    def meta(self) -> Mapping[str, Any]:
        """Whatever else the backend lets travel with the partition."""
        return self.lowered.meta

    def forward(self, *operands: Any) -> Any:
        """Apply :data:`call_delegate`."""
        return call_delegate(self, *operands)

    def run(self, *operands: Any) -> tuple[Any, ...]:
        """Let the backend compute, without gradients, and check the types of what it returns.

        Raises:
            ProgramError: The backend returned other types than the reference graph would.
        """
        try:
            outputs = self._implementation.run(self.lowered, *operands)
        except Exception as error:
            error.add_note(f"while the backend {self.backend_id!r} ran {self.extra_repr()}")
            raise
        self._check(outputs)
        return tuple(outputs)

    def extra_repr(self) -> str:
        """Return what a printed module says about it."""
        nodes, size = len(self.original_module.graph.nodes), len(self.processed_bytes)
        return f"backend={self.backend_id!r}, {nodes} nodes, {size} bytes"

    def _check(self, outputs: Sequence[Any]) -> None:
        is_sequence = isinstance(outputs, (tuple, list))
        found = tuple(map(ValueType.of, outputs)) if is_sequence else ()
        if is_sequence and all_accept(self._output_types, found):
            return
        returned = described(found) if is_sequence else f"a {type(outputs).__name__}"
        raise ProgramError(
            f"the backend {self.backend_id!r} returned {returned}, but the partition computes "
            f"{described(self._output_types)}",
            hint="call the partition with operands of the types that it was lowered for",
            stage=CALL_DELEGATE.name,
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> LoweredModule:
        original = copy.deepcopy(self.original_module, memo)
        lowered = dataclasses.replace(self.lowered, original_module=original)
        copied = LoweredModule(lowered, self._implementation)
        copied.train(self.training)
        memo[id(self)] = copied
        return copied

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise ProgramError(
            "a lowered partition is not pickled, since loading a pickle runs its author's code",
            hint="save the program as it was before it was delegated, and delegate it again",
            stage=CALL_DELEGATE.name,
        )


def call(*args: Any) -> Any:
    """Compute what a lowered partition stands for: the meaning of :data:`CALL_DELEGATE`.

    Its backend runs where nothing but the values is wanted. The reference graph runs where somebody
    looks inside: autograd, fake tensors, a functorch transform, an unknown mode or tensor subclass.
    So gradients are those of the reference graph.

    Raises:
        UsageError: The first argument is no lowered partition.
    """
    lowered_module, operands = _checked(args), _plain(args[1:])
    run = getattr(lowered_module, "run", None)
    if run is not None and is_eager(operands) and not _wants_derivatives(operands):
        return run(*operands)
    return lowered_module.original_module(*operands)


def _checked(args: tuple[Any, ...]) -> Any:
    found = args[0] if args else None
    missing = [name for name in _ATTRIBUTES if not hasattr(found, name)]
    if not args or missing or not isinstance(found, Module):
        given = f"a {type(found).__name__}" if args else "nothing"
        lacking = f", which lacks {', '.join(missing)}" if isinstance(found, Module) else ""
        raise UsageError(
            f"{CALL_DELEGATE.name} takes a lowered partition first, not {given}{lacking}",
            hint="pass a hopyard_executorch_delegate.LoweredModule",
            stage=CALL_DELEGATE.name,
        )
    return found


def _plain(operands: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return operands with fx's immutable containers as plain ones, which backends know."""
    return tuple(_thawed(operand) for operand in operands)


def _thawed(value: Any) -> Any:
    if isinstance(value, list):
        return [_thawed(item) for item in value]
    if isinstance(value, dict):
        return {key: _thawed(item) for key, item in value.items()}
    if type(value) is tuple:
        return tuple(_thawed(item) for item in value)
    return value


def _wants_derivatives(operands: Sequence[Any]) -> bool:
    tensors = [leaf for operand in operands for leaf in _leaves(operand)]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return True
    return any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)


def _leaves(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in _leaves(item)]
    return []
