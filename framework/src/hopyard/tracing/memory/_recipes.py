"""How to make again what an operator returned for operands of the same kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor
from torch.fx import Node

from ..._torch.proxies import are_slots_kept
from ._metadata import Metadata
from ._numbers import Numbers
from ._symbolic import SymbolicMetadata
from ._symbolic_outputs import symbolic_output

if TYPE_CHECKING:
    from ..recording._recorder import Recorder


class Recipe(Protocol):
    """Makes an operator's output and lets a node stand for it."""

    def make(
        self, recorder: Recorder, operands: Sequence[Tensor], node: Node, numbers: Numbers
    ) -> Any:
        """Return an operator's output.

        Args:
            recorder: Tracks the output.
            operands: All tensors among the arguments, in order.
            node: What stands for the output.
            numbers: The symbolic numbers of the call.
        """
        ...


class Fresh:
    """A tensor with a storage of its own."""

    __slots__ = ("metadata",)

    def __init__(self, metadata: Metadata) -> None:
        self.metadata = metadata

    def make(
        self, recorder: Recorder, operands: Sequence[Tensor], node: Node, numbers: Numbers
    ) -> Tensor:
        """Return a new tensor."""
        known = self.metadata
        tensor = recorder.values.fakes.empty(known.shape, known.stride, known.dtype, known.device)
        recorder.adopt(tensor, node, known)
        return tensor


class View:
    """A tensor that shares the storage of an operand."""

    __slots__ = ("metadata", "position")

    def __init__(self, position: int, metadata: Metadata) -> None:
        self.position = position
        self.metadata = metadata

    def make(
        self, recorder: Recorder, operands: Sequence[Tensor], node: Node, numbers: Numbers
    ) -> Tensor:
        """Return a new tensor on the operand's storage."""
        known = self.metadata
        tensor = recorder.values.fakes.view(
            operands[self.position],
            known.shape,
            known.stride,
            known.offset,
            known.dtype,
            known.device,
        )
        recorder.adopt(tensor, node, known)
        return tensor


class Returned:
    """An operand itself: what in-place operators and those with `out=` return."""

    __slots__ = ("position",)

    def __init__(self, position: int) -> None:
        self.position = position

    def make(
        self, recorder: Recorder, operands: Sequence[Tensor], node: Node, numbers: Numbers
    ) -> Tensor:
        """Return the operand."""
        tensor = operands[self.position]
        slot = recorder.slots.get(tensor)
        assert slot is not None
        assert slot.metadata is not None
        if are_slots_kept():
            recorder.values.describe(node, tensor, slot.metadata)
            return tensor
        recorder.adopt(tensor, node, slot.metadata)
        return tensor


class Nothing:
    """None."""

    __slots__ = ()

    def make(
        self, recorder: Recorder, operands: Sequence[Tensor], node: Node, numbers: Numbers
    ) -> None:
        """Return None."""


class Several:
    """A list or tuple, whose items get nodes of their own."""

    __slots__ = ("kind", "recipes")

    def __init__(
        self, kind: type[list[Any]] | type[tuple[Any, ...]], recipes: Sequence[Recipe]
    ) -> None:
        self.kind = kind
        self.recipes = tuple(recipes)

    def make(
        self, recorder: Recorder, operands: Sequence[Tensor], node: Node, numbers: Numbers
    ) -> Any:
        """Return the items, each with its node."""
        items = []
        values = []
        for index, recipe in enumerate(self.recipes):
            getitem = recorder.item(node, index)
            items.append(recipe.make(recorder, operands, getitem, numbers))
            values.append(getitem.meta.get("val"))
        node.meta["val"] = self.kind(values)
        return self.kind(items)


def recipe_for(
    output: Any, operands: Sequence[Tensor], numbers: Numbers, recorder: Recorder
) -> Recipe | None:
    """Return how to make `output` again, or None if operands of the same kind might not tell.

    An output that shares its storage with several operands, or is several operands at once, is such
    a case: which of them it will be next time cannot be known.
    """
    if output is None:
        return Nothing()
    if isinstance(output, (list, tuple)):
        recipes = [recipe_for(item, operands, numbers, recorder) for item in output]
        if type(output) not in (list, tuple) or None in recipes:
            return None
        return Several(type(output), [recipe for recipe in recipes if recipe is not None])
    if not isinstance(output, Tensor):
        return None
    slot = recorder.slots.get(output)
    if slot is None or slot.metadata is None or slot.constant is not None:
        return None
    same = [position for position, operand in enumerate(operands) if operand is output]
    if same:
        return Returned(same[0]) if len(same) == 1 else None
    if output.requires_grad:
        # Autograd was on inside of the operator, which what is made directly does not repeat.
        return None
    storage = output.untyped_storage()._cdata
    sharing = [
        position
        for position, operand in enumerate(operands)
        if operand.untyped_storage()._cdata == storage
    ]
    if len(sharing) > 1:
        return None
    if isinstance(slot.metadata, SymbolicMetadata):
        position = sharing[0] if sharing else None
        source = None if position is None else _metadata_of(operands[position], recorder)
        fakes = recorder.values.fakes
        return symbolic_output(output, slot.metadata, position, operands, source, numbers, fakes)
    if sharing:
        return View(sharing[0], slot.metadata)
    return Fresh(slot.metadata) if slot.metadata.fills_storage else None


def _metadata_of(operand: Tensor, recorder: Recorder) -> Metadata | SymbolicMetadata:
    slot = recorder.slots.get(operand)
    assert slot is not None
    assert slot.metadata is not None
    return slot.metadata
