"""Lowered partitions as modules, and what calling one computes."""

from __future__ import annotations

import contextlib
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

from ._baked import Baked, digests_of
from ._gradients import run_with_gradients
from ._hop import CALL_DELEGATE
from ._types import Signature, ValueType, all_accept, described

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
        implementation: The backend that runs it. One without `run` lets the reference graph run.
        name: How errors call the partition.
        baked: Digests of the operands that are part of the bytes, by position; found out from the
            reference graph if they are not given.
    """

    def __init__(
        self,
        lowered: Lowered,
        implementation: BackendImplementation,
        *,
        name: str = "a partition",
        baked: Mapping[int, str] | None = None,
    ) -> None:
        super().__init__()
        self.lowered = lowered
        self.name = name
        self.baked = Baked(digests_of(lowered) if baked is None else baked)
        self._implementation = implementation
        self._signature = Signature.of(lowered.original_module)

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
            ProgramError: The backend returned other types than the reference graph would, or an
                operand is not what is part of the bytes.
        """
        self.baked.check(operands, self._described())
        run = getattr(self._implementation, "run", None)
        try:
            with torch.no_grad():
                if run is None:
                    outputs: Any = self.original_module(*operands)
                else:
                    outputs = run(self.lowered, *operands)
        except Exception as error:
            error.add_note(f"while the backend {self.backend_id!r} ran {self._described()}")
            raise
        self._check(outputs, operands)
        return tuple(outputs)

    @property
    def has_backward(self) -> bool:
        """Whether the backend computes gradients itself."""
        return hasattr(self._implementation, "backward")

    def backward(self, operands: Sequence[Any], gradients: Sequence[Any]) -> list[Any]:
        """Let the backend compute the gradients of the operands, and check their types.

        Raises:
            ProgramError: It returned something else than a gradient or None for each operand.
        """
        implementation: Any = self._implementation
        try:
            found = implementation.backward(self.lowered, operands, gradients)
        except Exception as error:
            error.add_note(
                f"while the backend {self.backend_id!r} ran the backward of {self._described()}"
            )
            raise
        problem = _wrong_gradients(found, operands)
        if problem:
            raise ProgramError(
                f"the backend {self.backend_id!r} returned {problem} "
                f"from the backward of {self._described()}",
                hint="return a gradient of each operand's type, or None, for each operand",
                stage=CALL_DELEGATE.name,
            )
        return list(found)

    def to_artifact(self) -> tuple[GraphModule, bytes]:
        """Return what a file holds of it: the reference graph, and the rest as bytes.

        Raises:
            ArtifactError: Its backend left something in it that has no form in a file.
        """
        from ._artifact import packed

        return self.original_module, packed(self)

    def extra_repr(self) -> str:
        """Return what a printed module says about it."""
        nodes, size = len(self.original_module.graph.nodes), len(self.processed_bytes)
        return f"backend={self.backend_id!r}, {nodes} nodes, {size} bytes"

    def _described(self) -> str:
        return f"{self.name} ({self.extra_repr()})"

    def _check(self, outputs: Any, operands: Sequence[Any]) -> None:
        expected = self._signature.outputs_for(operands)
        is_sequence = isinstance(outputs, (tuple, list))
        found = tuple(map(ValueType.of, outputs)) if is_sequence else ()
        if is_sequence and all_accept(expected, found):
            return
        returned = described(found) if is_sequence else f"a {type(outputs).__name__}"
        raise ProgramError(
            f"the backend {self.backend_id!r} returned {returned} from {self.name}, "
            f"but the partition computes {described(expected)}",
            hint="call the partition with operands of the types that it was lowered for",
            stage=CALL_DELEGATE.name,
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> LoweredModule:
        original = copy.deepcopy(self.original_module, memo)
        lowered = dataclasses.replace(self.lowered, original_module=original)
        copied = LoweredModule(
            lowered, self._implementation, name=self.name, baked=self.baked.digests
        )
        copied.train(self.training)
        memo[id(self)] = copied
        return copied

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise ProgramError(
            "a lowered partition is not pickled, since loading a pickle runs its author's code",
            hint="save the program that it is part of with program.save(path)",
            stage=CALL_DELEGATE.name,
        )


def call(*args: Any) -> Any:
    """Compute what a lowered partition stands for: the meaning of :data:`CALL_DELEGATE`.

    Its backend runs where nothing but the values is wanted. The reference graph runs where somebody
    looks inside: autograd, fake tensors, a functorch transform, an unknown mode or tensor subclass.
    So gradients are those of the reference graph, unless the backend has a backward of its own.

    Raises:
        UsageError: The first argument is no lowered partition.
    """
    lowered_module, operands = _checked(args), _plain(args[1:])
    with contextlib.ExitStack() as stack:
        # What a partition computes was decided when it was captured, autocast included.
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        return _called(lowered_module, operands)


def _called(lowered_module: Any, operands: tuple[Any, ...]) -> Any:
    run = getattr(lowered_module, "run", None)
    if run is None or not is_eager(operands) or _has_tangents(operands):
        return lowered_module.original_module(*operands)
    if not _wants_gradients(operands):
        return run(*operands)
    if getattr(lowered_module, "has_backward", False) and not _are_nested(operands):
        return run_with_gradients(lowered_module, operands)
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


def _wants_gradients(operands: Sequence[Any]) -> bool:
    return torch.is_grad_enabled() and any(each.requires_grad for each in _leaves(operands))


def _has_tangents(operands: Sequence[Any]) -> bool:
    return any(forward_ad.unpack_dual(each).tangent is not None for each in _leaves(operands))


def _are_nested(operands: Sequence[Any]) -> bool:
    return any(isinstance(each, (list, tuple, dict)) for each in operands)


def _wrong_gradients(found: Any, operands: Sequence[Any]) -> str:
    """Say what is wrong with what a backward returned, or return ""."""
    if not isinstance(found, (tuple, list)):
        return f"a {type(found).__name__}"
    if len(found) != len(operands):
        return f"{len(found)} gradients for {len(operands)} operands"
    for index, (gradient, operand) in enumerate(zip(found, operands, strict=True)):
        if gradient is None:
            continue
        if ValueType.of(gradient) != ValueType.of(operand):
            types = f"{ValueType.of(gradient)} for operand {index}"
            return f"{types}, which is {ValueType.of(operand)},"
    return ""


def _leaves(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in _leaves(item)]
    return []
