"""What a tensor with symbolic sizes looks like, and how to make one that looks the same.

Equal numbers need not be one number: a program that reads the size of a tensor gets the node of the
tensor that the size was first seen on. So two things are told apart:

- a *look* says what sizes and strides are as expressions, and which of them are one number; tensors
  of one look share it, and it is part of the key of a call
- *symbolic metadata* holds the numbers of one tensor

A recipe for such a tensor says for each of its numbers whether it is one of the operands' numbers,
passed on, or a new one of a known expression.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import SymInt, Tensor, is_inference_mode_enabled
from torch.fx import Node

from ..._torch.dispatch import (
    PROXY_SLOT,
    TorchDispatchMode,
    disable_torch_dispatch,
    push_mode,
    unset_infra_mode,
)
from ..._torch.graphs import TensorMetadata, extract_tensor_metadata
from ..._torch.proxies import ProxyTorchDispatchMode
from ..._torch.symbolic import ShapeEnv, SymNode
from ._products import UnforeseenProductError

if TYPE_CHECKING:
    from ..recording._recorder import Recorder
    from ._fakes import FakeFactory
    from ._metadata import Metadata


class Look:
    """What tensors with symbolic sizes have in common; compared by identity.

    Attributes:
        shape_env: What is known of the symbols.
        memory_format: What `meta["tensor_meta"]` says of it, once somebody has asked.
    """

    __slots__ = ("is_described", "memory_format", "shape_env")

    def __init__(self, shape_env: ShapeEnv) -> None:
        self.shape_env = shape_env
        self.is_described = False
        self.memory_format: Any = None


class SymbolicMetadata:
    """The numbers of one tensor.

    Attributes:
        look: What they are as expressions.
        version: The replacements of symbols that the look goes by.
        shape: Size of each dimension.
        stride: Stride of each dimension, in elements.
        offset: Offset into the storage, in elements.
        elements: Number of elements.
        dtype: Element type.
        device: The device, the fake one for a fake tensor.
        nbytes: Size of the storage.
        numbers: Those that are symbolic: sizes, strides, offset, number of elements.
    """

    __slots__ = (
        "device",
        "dtype",
        "elements",
        "look",
        "nbytes",
        "numbers",
        "offset",
        "shape",
        "stride",
        "version",
    )

    def __init__(self, tensor: Tensor, device: torch.device, nbytes: int | SymInt) -> None:
        # Typed as integers in torch, they may be symbolic.
        self.shape: Any = tensor.shape
        self.stride: tuple[Any, ...] = tensor.stride()
        self.offset: Any = tensor.storage_offset()
        self.elements: Any = tensor.numel()
        self.dtype = tensor.dtype
        self.device = device
        self.nbytes = nbytes
        self.numbers = [number for number in self.positions if type(number) is SymInt]
        self.look: Look
        self.version = -1

    @classmethod
    def of(cls, tensor: Tensor, known: SymbolicMetadata) -> SymbolicMetadata:
        """Return the metadata of a tensor that looks as another one does."""
        metadata = cls(tensor, known.device, known.nbytes)
        metadata.look, metadata.version = known.look, known.version
        return metadata

    @property
    def positions(self) -> tuple[int | SymInt, ...]:
        """All numbers, in the order in which recipes hold them."""
        return (*self.shape, *self.stride, self.offset, self.elements)

    def still_describes(self, tensor: Tensor) -> bool:
        """Say whether `tensor` has the same numbers; asks for identity, which makes no guard."""
        return (
            tensor.dtype is self.dtype
            and _are_same(tensor.shape, self.shape)
            and _are_same(tensor.stride(), self.stride)
            and _is_same(tensor.storage_offset(), self.offset)
        )

    def tensor_meta(self, tensor: Tensor) -> TensorMetadata:
        """Return what `meta["tensor_meta"]` says of a tensor of this metadata."""
        look = self.look
        if not look.is_described:
            described: TensorMetadata = extract_tensor_metadata(tensor)
            look.memory_format, look.is_described = described.memory_format, True
            return described
        return TensorMetadata(
            self.shape,
            self.dtype,
            tensor.requires_grad,
            self.stride,
            look.memory_format,
            False,
            {},
        )


class Looks:
    """The looks of one trace."""

    def __init__(self, shape_env: ShapeEnv) -> None:
        self.shape_env = shape_env
        self._known: dict[tuple[Any, ...], Look] = {}

    def of(self, tensor: Tensor) -> SymbolicMetadata | None:
        """Return the metadata of a dense tensor, or None if its sizes depend on data."""
        metadata = SymbolicMetadata(tensor, tensor.device, tensor.untyped_storage().nbytes())
        if not all(is_backed(number) for number in metadata.numbers):
            return None
        self.look_up(metadata)
        return metadata

    def refresh(self, metadata: SymbolicMetadata) -> None:
        """Look again if symbols have been replaced since."""
        if metadata.version != self.shape_env._replacements_version_counter:
            self.look_up(metadata)

    def look_up(self, metadata: SymbolicMetadata) -> None:
        """Give metadata the look that its numbers have now."""
        metadata.version = self.shape_env._replacements_version_counter
        first: dict[SymNode, int] = {}
        described: list[Any] = []
        for number in metadata.positions:
            if type(number) is SymInt:
                node = number.node
                described += (node.expr, first.setdefault(node, len(first)))
            else:
                described.append(number)
        nbytes = metadata.nbytes
        key = (
            metadata.dtype,
            metadata.device,
            len(metadata.shape),
            nbytes.node.expr if isinstance(nbytes, SymInt) else nbytes,
            *described,
        )
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Look(self.shape_env)
        metadata.look = found


class NewNumber(NamedTuple):
    """A number that an operator computes: a new one each time, of one expression.

    Attributes:
        key: Distinguishes the new numbers of one call.
        example: The number that the operator computed first.
    """

    key: int
    example: SymInt

    def make(self) -> SymInt:
        """Return another number of the same expression and hint."""
        node: SymNode = self.example.node
        return SymInt(
            SymNode(
                node._expr,
                node.shape_env,
                node.pytype,
                node._hint,
                optimized_summation=node._optimized_summation,
            )
        )


class PassedOn(NamedTuple):
    """A number that an output shares with an operand.

    Attributes:
        position: Which of the numbers that the operator was given.
    """

    position: int


class Numbers:
    """The symbolic numbers of one call: those that the operator was given, and those it made.

    Attributes:
        given: Those of the operands and among the arguments, in order.
    """

    __slots__ = ("_made", "_planned", "_positions", "given")

    def __init__(self, given: Sequence[Any]) -> None:
        self.given = given
        # Made when needed: most calls have no symbolic numbers at all.
        self._made: dict[int, SymInt] | None = None
        self._planned: dict[SymNode, int] | None = None
        self._positions: dict[SymNode, int] | None = None

    def planned(self, number: int | SymInt) -> int | NewNumber | PassedOn:
        """Return what a recipe holds for a number of an output."""
        if not isinstance(number, SymInt):
            return number
        if self._positions is None:
            self._positions = {}
            for position, given in enumerate(self.given):
                self._positions.setdefault(given.node, position)
        if number.node in self._positions:
            return PassedOn(self._positions[number.node])
        if self._planned is None:
            self._planned = {}
        return NewNumber(self._planned.setdefault(number.node, len(self._planned)), number)

    def filled(self, plan: Sequence[int | NewNumber | PassedOn]) -> list[Any]:
        """Return the numbers of an output; its outputs share new ones as the first ones did."""
        values: list[Any] = []
        if self._made is None:
            self._made = {}
        for item in plan:
            if type(item) is PassedOn:
                values.append(self.given[item.position])
            elif type(item) is NewNumber:
                number = self._made.get(item.key)
                if number is None:
                    number = self._made[item.key] = item.make()
                values.append(number)
            else:
                values.append(item)
        return values


class SymbolicOutput:
    """A tensor with symbolic sizes, in a storage of its own or of an operand.

    Attributes:
        source: The operand whose storage it shares; None if it has its own.
    """

    __slots__ = ("_is_contiguous", "_is_unchanged", "_metadata", "_plan", "source")

    def __init__(
        self,
        metadata: SymbolicMetadata,
        plan: Sequence[int | NewNumber | PassedOn],
        source: int | None,
        *,
        is_unchanged: bool = False,
        is_contiguous: bool = False,
    ) -> None:
        self.source = source
        self._metadata = metadata
        self._plan = plan
        self._is_unchanged = is_unchanged
        self._is_contiguous = is_contiguous

    def make(
        self, recorder: Recorder, operands: Sequence[Tensor], node: Node, numbers: Numbers
    ) -> Tensor:
        """Return a new tensor."""
        fakes = recorder.values.fakes
        if self._is_unchanged:
            assert self.source is not None
            # A shallow copy also shares the number of elements, which others compute anew.
            tensor = fakes.snapshot(operands[self.source], self._metadata.device)
        else:
            tensor = self._made(numbers.filled(self._plan), operands, fakes)
        recorder.adopt(tensor, node, SymbolicMetadata.of(tensor, self._metadata))
        return tensor

    def fresh(self, fakes: FakeFactory) -> Tensor:
        """Return a new tensor of numbers of its own; there is no operand to share any with."""
        return self._made(Numbers(()).filled(self._plan), (), fakes)

    def _made(
        self, positions: Sequence[Any], operands: Sequence[Tensor], fakes: FakeFactory
    ) -> Tensor:
        known = self._metadata
        count = len(known.shape)
        shape, stride = positions[:count], positions[count : 2 * count]
        offset, elements = positions[-2:]
        return fakes.symbolic(
            shape,
            stride,
            elements,
            known.nbytes,
            known.dtype,
            known.device,
            offset=offset,
            is_contiguous=self._is_contiguous,
            source=None if self.source is None else operands[self.source],
        )

    def succeeds(
        self, operands: Sequence[Tensor], fakes: FakeFactory, *, is_contiguous: bool
    ) -> bool:
        """Say whether what is made has the very numbers of the known tensor, and knows as much."""
        known = self._metadata
        positions = known.positions
        try:
            with disable_torch_dispatch(), known.look.shape_env.suppress_guards():
                trial = self._made(positions, operands, fakes)
                numbers = (*trial.shape, *trial.stride(), trial.storage_offset(), trial.numel())
        except (RuntimeError, UnforeseenProductError):
            return False
        return _are_same(numbers, positions) and (
            knows_that_it_is_contiguous(trial, known, fakes) is is_contiguous
        )


def symbolic_output(
    output: Tensor,
    metadata: SymbolicMetadata,
    operand: int | None,
    operands: Sequence[Tensor],
    source: SymbolicMetadata | Metadata | None,
    numbers: Numbers,
    fakes: FakeFactory,
) -> SymbolicOutput | None:
    """Return how to make a tensor again, or None if it cannot be told.

    Args:
        output: What the operator returned.
        metadata: The metadata of that.
        operand: Which operand's storage it shares, if any.
        operands: All of them.
        source: The metadata of that operand.
        numbers: Those that the operator was given.
        fakes: Makes fake tensors.
    """
    plan = [numbers.planned(number) for number in metadata.positions]
    if operand is not None:
        assert source is not None
        if (
            isinstance(source, SymbolicMetadata)
            and len(source.shape) == len(metadata.shape)
            and _are_same(source.positions, metadata.positions)
        ):
            return SymbolicOutput(metadata, plan, operand, is_unchanged=True)
        if source.dtype is not metadata.dtype:
            return None
        if is_inference_mode_enabled() or operands[operand].is_inference():
            # There, a tensor that is made without the dispatcher has no version counter; elsewhere,
            # it would be no inference tensor.
            return None
    is_contiguous = knows_that_it_is_contiguous(output, metadata, fakes)
    for says_so in (False, True) if is_contiguous else (False,):
        found = SymbolicOutput(metadata, plan, operand, is_contiguous=says_so)
        if found.succeeds(operands, fakes, is_contiguous=is_contiguous):
            return found
    return None


def knows_that_it_is_contiguous(
    tensor: Tensor, metadata: SymbolicMetadata, fakes: FakeFactory
) -> bool:
    """Say whether somebody has told a tensor that it is contiguous.

    Others find it out when they are asked for the first time, by multiplying sizes, which is
    recorded if it happens in the captured program.
    """
    with disable_torch_dispatch():
        copy = fakes.snapshot(tensor, metadata.device)
    with metadata.look.shape_env.suppress_guards(), _Watch():
        try:
            return copy.is_contiguous()
        except _Computes:
            return False


class _Computes(Exception):
    """Numbers are computed."""


class _Watch(ProxyTorchDispatchMode):
    """A mode in the place of a tracer's that stops whoever computes with symbolic numbers."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self._mode_key = PROXY_SLOT

    def __enter__(self) -> _Watch:
        push_mode(self)
        return self

    def __exit__(self, *raised: object) -> None:
        unset_infra_mode(PROXY_SLOT)

    def __sym_dispatch__(self, *call: Any) -> Any:
        raise _Computes


def is_backed(number: Any) -> bool:
    """Say whether a symbolic number has an example value, and is an ordinary number."""
    node = number.node
    return (
        type(node._hint) is node.pytype
        and node.constant is None
        and not node.shape_env._translation_validation_enabled
    )


def _is_same(one: Any, other: Any) -> bool:
    if type(one) is SymInt:
        return type(other) is SymInt and one.node is other.node
    return type(other) is not SymInt and one == other


def _are_same(some: Sequence[Any], others: Sequence[Any]) -> bool:
    if len(some) != len(others):
        return False
    for one, other in zip(some, others, strict=True):
        if type(one) is SymInt:
            if type(other) is not SymInt or one.node is not other.node:
                return False
        elif type(other) is SymInt or one != other:
            return False
    return True
