"""How to make a tensor with symbolic sizes again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sympy  # type: ignore[import-untyped]
from torch import SymInt, Tensor, is_inference_mode_enabled
from torch.fx import Node

from ..._torch.dispatch import (
    PROXY_SLOT,
    TorchDispatchMode,
    disable_torch_dispatch,
    push_mode,
    unset_infra_mode,
)
from ..._torch.proxies import ProxyTorchDispatchMode
from ..symbols._deferred import Reading
from ..symbols._tracker import ELEMENTS, OFFSET, SIZE, STRIDE
from ._numbers import Numbers, Plan
from ._products import Products, UnforeseenProductError
from ._symbolic import SymbolicMetadata, identities

if TYPE_CHECKING:
    from ..recording._recorder import Recorder
    from ._fakes import FakeFactory
    from ._metadata import Metadata


class Unchanged:
    """A tensor in the storage of an operand with the operand's own numbers.

    Attributes:
        source: Which operand.
    """

    __slots__ = ("source",)

    def __init__(self, source: int) -> None:
        self.source = source

    def make(
        self, recorder: Recorder, operands: Sequence[Tensor], node: Node, numbers: Numbers
    ) -> Tensor:
        """Return a new tensor."""
        operand = operands[self.source]
        slot = recorder.slots.get(operand)
        assert slot is not None
        assert slot.metadata is not None
        # A shallow copy also shares the number of elements, which others compute anew.
        tensor = recorder.values.fakes.snapshot(operand, slot.metadata.device)
        recorder.adopt(tensor, node, slot.metadata)
        return tensor


class SymbolicOutput:
    """A tensor with symbolic sizes, in a storage of its own or of an operand.

    Attributes:
        source: The operand whose storage it shares; None if it has its own.
    """

    __slots__ = ("_metadata", "_plan", "_products", "_readings", "source")

    def __init__(
        self, metadata: SymbolicMetadata, plan: Plan, products: Products, source: int | None
    ) -> None:
        self.source = source
        self._metadata = metadata
        self._plan = plan
        self._products = products
        self._readings = _readings(metadata.values, products.rank)

    def make(
        self, recorder: Recorder, operands: Sequence[Tensor], node: Node, numbers: Numbers
    ) -> Tensor:
        """Return a new tensor."""
        values = numbers.filled(self._plan)
        tensor = self._made(values, operands, recorder.values.fakes)
        metadata = self._metadata.like(values, self._readings, node)
        recorder.symbols.track_unread(metadata)
        recorder.adopt(tensor, node, metadata)
        return tensor

    def fresh(self, fakes: FakeFactory) -> Tensor:
        """Return a new tensor of numbers of its own; there is no operand to share any with."""
        return self._made(Numbers(()).filled(self._plan), (), fakes)

    def _made(
        self, values: Sequence[Any], operands: Sequence[Tensor], fakes: FakeFactory
    ) -> Tensor:
        known = self._metadata
        source = None if self.source is None else operands[self.source]
        return fakes.symbolic(
            values, self._products, known.nbytes, known.dtype, known.device, source
        )

    def succeeds(
        self, operands: Sequence[Tensor], fakes: FakeFactory, *, is_contiguous: bool
    ) -> bool:
        """Say whether what is made has the very numbers of the known tensor, and knows as much."""
        known = self._metadata
        positions = known.values
        try:
            with disable_torch_dispatch(), known.look.shape_env.suppress_guards():
                trial = self._made(positions, operands, fakes)
                numbers = (*trial.shape, *trial.stride(), trial.storage_offset(), trial.numel())
        except (RuntimeError, UnforeseenProductError):
            return False
        return identities(numbers) == identities(positions) and (
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
) -> SymbolicOutput | Unchanged | None:
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
    values = metadata.values
    if any(number.node.expr.is_number for number in metadata.numbers):
        return None
    if operand is not None:
        assert source is not None
        if (
            isinstance(source, SymbolicMetadata)
            and source.dtype is metadata.dtype
            and identities(source.values) == identities(values)
        ):
            return Unchanged(operand)
        if source.dtype is not metadata.dtype:
            return None
        if is_inference_mode_enabled() or operands[operand].is_inference():
            # There, a tensor that is made without the dispatcher has no version counter; elsewhere,
            # it would be no inference tensor.
            return None
    plan = numbers.plan(values)
    is_contiguous = knows_that_it_is_contiguous(output, metadata, fakes)
    # Strides that torch computes from the sizes tell it that the tensor is contiguous.
    for says_so in (True, False) if is_contiguous else (False,):
        products = Products(values, metadata.rank, is_contiguous=says_so)
        found = SymbolicOutput(metadata, plan, products, operand)
        if found.succeeds(operands, fakes, is_contiguous=is_contiguous):
            return found
    return None


def _readings(positions: Sequence[int | SymInt], rank: int) -> tuple[Reading, ...]:
    """Return how the symbolic numbers of a tensor are read off it."""
    dimensions = range(rank)
    queries: list[tuple[Any, int | None]] = [
        *[(SIZE, index) for index in dimensions],
        *[(STRIDE, index) for index in dimensions],
        (OFFSET, None),
        (ELEMENTS, None),
    ]
    readings = []
    for position, (number, (query, index)) in enumerate(zip(positions, queries, strict=True)):
        if isinstance(number, SymInt):
            expression = number.node.expr
            symbol = expression if isinstance(expression, sympy.Symbol) else None
            readings.append(Reading(position, query, index, symbol))
    # The number of elements is asked for before the offset.
    return tuple(sorted(readings, key=lambda reading: reading.query is OFFSET))


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

    record_arithmetic = __sym_dispatch__
