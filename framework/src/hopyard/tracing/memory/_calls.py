"""Operators that a trace has seen before, on operands of the same kind.

What a fake operator returns is a function of the operator, of its operands' metadata and other
arguments, and of state that operators can see. All of that is the key:

- the operator; a kernel registered or a Python rule added meanwhile changes the key as well
- for a tensor: its interned metadata, compared with the tensor at each use, and whether it
  requires grad
- for any other argument: its type and its value, so that 1, 1.0 and True differ
- for lists, tuples and keywords: their kind, length and names
- for a tensor with symbolic sizes: its look, that is its sizes as expressions, and which of them
  are one number, and whether it was made in inference mode; for a symbolic number: its expression;
  for both, which numbers of the call are one number, since the output may pass them on, and what is
  known of symbols: guards and replacements
- the default dtype, the grad and inference modes, deterministic algorithms, mkldnn and cudnn,
  autocast, and the thread's included and excluded dispatch keys

Not remembered are operators whose result depends on data, or that change size or stride of an
operand; random ones are, since fake values have no data. Tensors with a known constant, with sizes
that depend on data, of other layouts and of subclasses take the long way each time. A cache lives
as long as a trace, and serves one decomposition table.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import (
    Tensor,
    are_deterministic_algorithms_enabled,
    get_default_dtype,
    is_grad_enabled,
    is_inference_mode_enabled,
)
from torch.fx import Node
from torch.nn import Parameter

from ..._torch.dispatch import (
    OpOverload,
    autograd_would_have_decomposed,
    disable_torch_dispatch,
    disable_torch_function,
    excluded_dispatch_keys,
    included_dispatch_keys,
    is_any_autocast_enabled,
    is_cudnn_enabled,
    is_mkldnn_enabled,
    registered_kernels,
)
from ..._torch.fake import FakeTensor, active_fake_mode
from .._atoms import ATOMS
from ..recording._recorder import Recorder
from ..recording._slots import Slot
from ..symbols._tracker import SYMBOLIC, is_symbolic
from ._numbers import Numbers
from ._operators import is_composite, is_predictable
from ._propagation import MISSING, Propagation
from ._recipes import Recipe, recipe_for
from ._symbolic import SymbolicMetadata, is_backed

aten = torch.ops.aten

_MASK_TYPES: Final = (torch.bool, torch.int8, torch.uint8)


class Operator:
    """What a trace knows of an operator, found once: hashing an operator runs Python code.

    Attributes:
        overload: The operator.
        predictable: Whether its results may be remembered.
        composite: Whether autograd may decompose it.
        listed: Whether it is recorded as what the decomposition table makes of it.
        indexes: Whether it is given indices, of which those that are masks tell by their data how
            large the result is.
    """

    __slots__ = ("composite", "indexes", "listed", "overload", "predictable")

    def __init__(self, overload: OpOverload, decompositions: Container[OpOverload]) -> None:
        self.overload = overload
        self.predictable = is_predictable(overload)
        self.composite = self.predictable and is_composite(overload)
        self.listed = overload in decompositions
        self.indexes = overload is aten.index.Tensor


class Operators:
    """The operators of a trace, by identity."""

    def __init__(self, decompositions: Container[OpOverload]) -> None:
        self._decompositions = decompositions
        self._known: dict[int, Operator] = {}

    def of(self, func: OpOverload) -> Operator:
        """Return what is known of an operator; it is kept, so that its identity stays its own."""
        known = self._known.get(id(func))
        if known is None:
            known = self._known[id(func)] = Operator(func, self._decompositions)
        return known


class Call(NamedTuple):
    """An operator call, read once.

    Attributes:
        operator: What is called.
        key: What the result depends on.
        args: The positional arguments as a node holds them.
        kwargs: The keyword arguments as a node holds them.
        operands: The tensors among all arguments, in order.
        numbers: The numbers of operands with symbolic sizes and the symbolic ones among the
            arguments, in order.
        passed: Whether there are symbolic numbers among the arguments, which nodes do not stand for
            before the call is recorded.
    """

    operator: Operator
    key: tuple[Any, ...]
    args: tuple[Any, ...]
    kwargs: dict[str, Any] | None
    operands: list[Tensor]
    numbers: list[Any]
    passed: bool


class _Calls:
    """Reads operator calls once, for the look-up and for the node.

    Attributes:
        hits: Number of calls that went the short way.
        misses: Number of calls that were learned.
    """

    _tensors: frozenset[type]
    """The kinds of tensors that calls may have."""

    _by_value: bool
    """Whether results depend on arguments that are no tensors."""

    def __init__(self, recorder: Recorder, decompositions: Container[OpOverload] = ()) -> None:
        self._recorder = recorder
        self._slot_name = recorder.slots.attribute
        self._operators = Operators(decompositions)
        self.hits = 0
        self.misses = 0

    def read(
        self, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any] | None
    ) -> Call | None:
        """Return the call's key and lowered arguments, or None if it must take the long way."""
        operator = self._operators.of(func)
        if not operator.predictable:
            return None
        state = self._state()
        if state is None:
            return None
        key: list[Any] = [operator, len(func.py_kernels), *state]
        operands: list[Tensor] = []
        numbers: list[Any] = []
        passed: list[Any] = []
        # At each question to a tensor torch would look for somebody who overrides the answer.
        with disable_torch_function():
            lowered = self._scan(args, key, operands, numbers, passed)
        if lowered is None:
            return None
        keywords: dict[str, Any] | None = None
        if kwargs:
            key.extend(kwargs)
            values = self._scan(tuple(kwargs.values()), key, operands, numbers, passed)
            if values is None:
                return None
            keywords = dict(zip(kwargs, values, strict=True))
        if operator.indexes and any(t.dtype in _MASK_TYPES for t in operands[1:]):
            return None
        if passed or numbers:
            numbers += passed
            key += self._knowledge()
            if passed or len(operands) > 1:
                # The look of one operand tells that of its own numbers.
                first: dict[Any, int] = {}
                symbolic = [each.node for each in numbers if type(each) is not int]
                key.append(tuple([first.setdefault(each, len(first)) for each in symbolic]))
        # As `Call(...)` does, at half the cost.
        made = (operator, tuple(key), tuple(lowered), keywords, operands, numbers, bool(passed))
        return tuple.__new__(Call, made)

    def _knowledge(self) -> tuple[Any, ...]:
        """Return what operators may know of symbols."""
        raise NotImplementedError

    def _state(self) -> tuple[Any, ...] | None:
        """Return what else a call depends on; None if every call must take the long way now."""
        raise NotImplementedError

    def _scan(
        self,
        values: Sequence[Any],
        key: list[Any],
        operands: list[Tensor],
        numbers: list[Any],
        passed: list[Any],
    ) -> list[Any] | None:
        """Append to `key` and `operands`; return the lowered values, or None for the long way.

        This loop runs for every operand of every operator; `make bench-trace` shows what it costs.
        """
        lowered: list[Any] = []
        for value in values:
            kind = type(value)
            if kind in self._tensors:
                node = self._operand(value, key, numbers)
                if node is None:
                    return None
                operands.append(value)
                lowered.append(node)
            elif kind in ATOMS:
                if self._by_value:
                    key.append(kind)
                    key.append(value)
                lowered.append(value)
            elif kind is list or kind is tuple or kind is torch.Size:
                if self._by_value:
                    key.append(kind)
                    key.append(len(value))
                items = self._scan(value, key, operands, numbers, passed)
                if items is None:
                    return None
                lowered.append(items if kind is list else tuple(items))
            elif kind in SYMBOLIC and self._by_value and is_backed(value):
                key.append(kind)
                key.append(value.node.expr)
                passed.append(value)
                lowered.append(value)
            else:
                return None
        return lowered

    def _operand(self, tensor: Tensor, key: list[Any], numbers: list[Any]) -> Node | None:
        """Append what a tensor is to `key`; return its node, or None for the long way."""
        raise NotImplementedError


class FakeCalls(_Calls):
    """Recipes of one trace, by key.

    Args:
        recorder: Writes the calls.
        decompositions: Operators that are not recorded as they are.
        propagation: Answers calls that were not seen before; None if the fake mode shall.
    """

    _tensors = frozenset((FakeTensor,))
    _by_value = True

    def __init__(
        self,
        recorder: Recorder,
        decompositions: Container[OpOverload] = (),
        propagation: Propagation | None = None,
    ) -> None:
        super().__init__(recorder, decompositions)
        self._recipes: dict[tuple[Any, ...], Recipe] = {}
        self._looks = recorder.values.metadata.looks
        self._propagation = propagation
        self._fake_mode = recorder.values.fakes.fake_mode
        # In a capture without symbols no recipe asks for any.
        self._no_numbers = Numbers(())
        # Environments by number: keys are hashed at each call, and environments hardly change.
        self._environments: dict[tuple[Any, ...], int] = {}
        self._environment: tuple[Any, ...] = ()
        self._numbered: tuple[int] = (-1,)

    def _knowledge(self) -> tuple[Any, ...]:
        assert self._looks is not None
        shape_env = self._looks.shape_env
        return (shape_env._version_counter, len(shape_env.guards))

    def _lowered(self, value: Any) -> Any:
        if is_symbolic(value):
            return self._recorder.symbols.lower(value)
        if type(value) is list or type(value) is tuple:
            return type(value)([self._lowered(item) for item in value])
        return value

    def replay(
        self, func: OpOverload, call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Record a call and return its output; :data:`MISSING` if that takes the long way."""
        recipe = self._recipes.get(call.key)
        if recipe is None:
            return self._first(func, call, args, kwargs)
        self.hits += 1
        recorder = self._recorder
        if call.passed:
            node = recorder.write(func, *self._lowered_arguments(call))
        else:
            node = recorder.write(func, call.args, call.kwargs)
        numbers = self._no_numbers if self._looks is None else Numbers(call.numbers)
        with disable_torch_function(), disable_torch_dispatch():
            return recipe.make(recorder, call.operands, node, numbers)

    def _first(
        self, func: OpOverload, call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Record a call without the fake mode if it is simple enough, else :data:`MISSING`."""
        operator = call.operator
        if self._propagation is None or operator.listed:
            return MISSING
        if operator.composite and autograd_would_have_decomposed(func, call.operands):
            return MISSING
        # Before the operator runs: what it decides can make plain numbers of those it was given.
        lowered, keywords = self._lowered_arguments(call)
        output = self._propagation.compute(func, args, kwargs)
        if output is MISSING:
            return MISSING
        recorder = self._recorder
        node = recorder.write(func, lowered, keywords)
        recorder.track(output, node)
        self.learn(call, output)
        return output

    def _lowered_arguments(self, call: Call) -> tuple[tuple[Any, ...], dict[str, Any] | None]:
        args, kwargs = call.args, call.kwargs
        if call.passed:
            args = self._lowered(args)
            kwargs = kwargs and {key: self._lowered(item) for key, item in kwargs.items()}
        return args, kwargs

    def learn(self, call: Call, output: Any) -> None:
        """Remember what a call returned."""
        self.misses += 1
        recipe = recipe_for(output, call.operands, Numbers(call.numbers), self._recorder)
        if recipe is not None and self.is_repeatable(recipe):
            self._recipes[call.key] = recipe

    def is_repeatable(self, recipe: Recipe) -> bool:
        """Say whether a recipe tells all that a call does."""
        return True

    def _state(self) -> tuple[Any, ...] | None:
        if active_fake_mode() is not self._fake_mode:
            # Without it, or under another one, the program gets other tensors than this trace's.
            return None
        environment = _environment()
        if environment != self._environment:
            self._environment = environment
            number = self._environments.setdefault(environment, len(self._environments))
            self._numbered = (number,)
        return self._numbered

    def _operand(self, tensor: Tensor, key: list[Any], numbers: list[Any]) -> Node | None:
        slot: Slot | None = tensor.__dict__.get(self._slot_name)
        if slot is None or slot.constant is not None:
            return None
        metadata = slot.metadata
        if metadata is None:
            return None
        if not metadata.still_describes(tensor):
            metadata = slot.metadata = self._recorder.values.metadata.of(tensor)
            if metadata is None:
                return None
        if type(metadata) is SymbolicMetadata:
            looks = self._looks
            assert looks is not None
            if metadata.version != looks.shape_env._replacements_version_counter:
                looks.look_up(metadata)
            key.append(metadata.look)
            key.append(tensor.is_inference())
            numbers += metadata.values
        else:
            key.append(metadata)
        key.append(tensor.requires_grad)
        return slot.node


class RealCalls(_Calls):
    """Operators on real tensors that are recorded as they are: no constant, no decomposition.

    Their results are computed, not remembered; what is saved is finding out that they are plain.
    That depends on the operator, on the registered kernels and on the devices of its operands.
    """

    _tensors = frozenset((Tensor, Parameter))
    _by_value = False

    def __init__(self, recorder: Recorder, decompositions: Container[OpOverload] = ()) -> None:
        super().__init__(recorder, decompositions)
        self._plain: set[tuple[Any, ...]] = set()

    def replay(
        self, func: OpOverload, call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Record and compute a call that is known to be plain, else return :data:`MISSING`."""
        if call.key not in self._plain:
            return MISSING
        self.hits += 1
        recorder = self._recorder
        node = recorder.write(func, call.args, call.kwargs)
        output = func(*args, **kwargs)
        recorder.track(output, node)
        return output

    def learn(self, call: Call, output: Any) -> None:
        """Remember that a call was recorded as it is."""
        self.misses += 1
        self._plain.add(call.key)

    def _state(self) -> tuple[Any, ...]:
        return (len(registered_kernels),)

    def _operand(self, tensor: Tensor, key: list[Any], numbers: list[Any]) -> Node | None:
        slot: Slot | None = tensor.__dict__.get(self._slot_name)
        if slot is None or slot.constant is not None:
            return None
        key.append(tensor.device)
        return slot.node


def _environment() -> tuple[Any, ...]:
    return (
        get_default_dtype(),
        is_grad_enabled(),
        is_inference_mode_enabled(),
        are_deterministic_algorithms_enabled(),
        is_mkldnn_enabled(),
        is_cudnn_enabled(),
        _autocast() if is_any_autocast_enabled() else None,
        included_dispatch_keys().raw_repr(),
        excluded_dispatch_keys().raw_repr(),
        len(registered_kernels),
    )


def _autocast() -> tuple[Any, ...]:
    devices = ("cpu", "cuda")
    return tuple(
        (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in devices
    )
