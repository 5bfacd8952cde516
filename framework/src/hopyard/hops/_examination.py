"""Looking at a body before it is called: it is traced aside, on tensors that nobody else has.

What it captures, what it writes to and what its gradients are is known then, and nothing has
happened to the program that calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from hopyard_hookspecs import TracingMode

from .._torch.dispatch import internal_overlap, without_autocast, without_infra_mode
from .._torch.fake import detect_fake_mode, is_fake
from .._torch.functional import FUNCTIONAL_SLOT, functional_value
from .._torch.provenance import next_autograd_number
from .._torch.pytree import tree_flatten, tree_leaves, tree_unflatten
from .._torch.symbolic import ShapeEnv
from ..errors import CaptureError, UnsupportedError
from ..tracing import (
    Placeholder,
    Tracer,
    TracingOptions,
    current_location,
    lift_captured,
    suspended,
)
from . import _function_modes as function_modes
from ._captures import Find, StandIns, looked_at, looking, name_of
from ._effects import Effects, effects_of
from ._provider import provider_of

if TYPE_CHECKING:
    from ._operator import Operator


aten = torch.ops.aten


class _Unliftable(UnsupportedError):
    """A tensor that a body captures cannot become an operand."""


class NotExaminable(Exception):
    """A call cannot be traced aside; whoever runs it in place will see why."""


@dataclass(frozen=True, slots=True)
class Gradient:
    """The gradient of a call, as a graph.

    Attributes:
        graph_module: Returns the gradients that are not None.
        takes: For each placeholder, the number of an input, or of an output, counted on from the
            inputs, whose gradient it takes.
        wanted: For each gradient that it returns, the input that it is of.
        layouts: For each output whose gradient it takes, the order of the dimensions in memory.
    """

    graph_module: GraphModule
    takes: tuple[int, ...]
    wanted: tuple[int, ...]
    layouts: Mapping[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Examination:
    """What tracing a call has shown.

    Its inputs are the leaves of the operands, then the tensors and the numbers that it captures.

    Attributes:
        captured: The tensors that the body captures, as the body sees them.
        numbers: The symbolic numbers that it captures.
        effects: What the call does besides computing outputs.
        differentiable: The outputs that have a gradient; empty if that was not asked for.
        gradient: Their gradient; None if it was not asked for or no input has one.
    """

    captured: tuple[Tensor, ...]
    numbers: tuple[Any, ...]
    effects: Effects
    differentiable: tuple[int, ...] = ()
    gradient: Gradient | None = None


def examine(
    call: Callable[..., Any],
    operands: Sequence[Any],
    *,
    gradient: bool,
    body: Callable[..., Any],
    operator: Operator,
) -> Examination:
    """Trace `call(*operands)` aside.

    Args:
        call: What the operator does with its operands.
        operands: Tensors and plain values, in containers or not.
        gradient: Whether its gradient is wanted, of the operands and captured tensors that require
            grad.
        body: The body that it runs, for error messages.
        operator: The operator.

    Raises:
        NotExaminable: It cannot be traced aside.
        UnsupportedError: The body captures what cannot become an operand.
    """
    return _Examiner(call, operands, body, operator).run(gradient)


class _Examiner:
    def __init__(
        self,
        call: Callable[..., Any],
        operands: Sequence[Any],
        body: Callable[..., Any],
        operator: Operator,
    ) -> None:
        self._call = call
        self._body = body
        self._operator = operator
        self._leaves, self._spec = tree_flatten(tuple(operands))
        self._captured: list[Tensor] = []
        self._stand_ins: list[Tensor] = []
        self._places: dict[int, int] = {}
        self._tangents: dict[int, int] = {}
        self._kept: list[Tensor] = []
        self._layouts: dict[int, tuple[int, ...]] = {}
        self._differentiable: tuple[int, ...] = ()
        self._wanted: tuple[int, ...] = ()
        self._gradient = False
        self._enclosing: Find | None = None
        self._output_count = 0
        self._numbers: tuple[Any, ...] = ()
        plain = [functional_value(leaf) for leaf in self._leaves if isinstance(leaf, Tensor)]
        fake_mode = detect_fake_mode(plain)
        mode: TracingMode = "real"
        if fake_mode is not None:
            mode = "fake" if fake_mode.shape_env is None else "symbolic"
        self._tracer = Tracer(TracingOptions(mode, fake_mode))
        if fake_mode is not None and fake_mode.shape_env is not None:
            shape_env = fake_mode.shape_env
            self._tracer.recorder.symbols.ask = lambda symbol: _number(shape_env, symbol)
        self._tracer.is_around = self._is_lifted
        self._start = next_autograd_number()

    def run(self, gradient: bool) -> Examination:
        self._gradient = gradient
        with ExitStack() as stack:
            self._enclosing = looking.find
            stack.enter_context(looked_at(self._find))
            stack.enter_context(suspended())
            stack.enter_context(without_infra_mode(FUNCTIONAL_SLOT))
            values = [self._fresh(leaf) for leaf in self._leaves]
            placeholders = [Placeholder(f"operand{index}") for index in range(len(values))]
            function = self._with_gradient if gradient else self._alone
            try:
                traced = self._tracer.trace(function, values, placeholders, self._operator.name())
            except _Unliftable:
                raise
            except CaptureError as error:
                raise NotExaminable from error
        region = lift_captured(traced, self._is_lifted)
        self._numbers = tuple(self._tracer.recorder.symbols.captured)
        tensors = len(self._leaves) + len(self._captured)
        order = [
            *range(len(self._leaves)),
            *range(tensors, tensors + len(self._numbers)),
            *(self._place(each) for each in region.captured),
        ]
        self._refuse_left_over(region.graph_module)
        return self._conclude(region.graph_module, order)

    def _alone(self, *values: Any) -> Any:
        with function_modes.shown(aside=True), StandIns(self._find):
            output = self._call(*tree_unflatten(list(values), self._spec))
        outputs = [
            self._find(leaf) if isinstance(leaf, Tensor) else leaf for leaf in tree_leaves(output)
        ]
        self._output_count = len(outputs)
        return outputs

    def _with_gradient(self, *values: Any) -> Any:
        outputs = self._alone(*values)
        inputs = [*values, *self._stand_ins]
        sources = [index for index, value in enumerate(inputs) if _requires_grad(value)]
        given = {id(value) for value in inputs}
        targets = [
            index
            for index, value in enumerate(outputs)
            if _requires_grad(value) and id(value) not in given
        ]
        if not targets or not sources:
            return outputs, []
        with suspended():
            tangents = [torch.ones_like(outputs[index]) for index in targets]
            self._layouts = {at: _layout(each) for each, at in zip(tangents, targets, strict=True)}
        self._tangents = {id(each): at for each, at in zip(tangents, targets, strict=True)}
        self._refuse_escapes([outputs[index] for index in targets])
        self._kept += tangents
        # What autocast casts in a forward it leaves alone in the backward.
        with without_autocast():
            gradients: Sequence[Tensor | None] = torch.autograd.grad(
                [outputs[index] for index in targets],
                [inputs[index] for index in sources],
                tangents,
                allow_unused=True,
            )
        found = [pair for pair in zip(sources, gradients, strict=True) if pair[1] is not None]
        self._differentiable = tuple(targets)
        self._wanted = tuple(index for index, _ in found)
        return outputs, [gradient for _, gradient in found]

    def _fresh(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        plain = functional_value(value)
        fresh = plain.detach()
        if not is_fake(plain) and _is_dense(plain):
            # The body may write to it, and must not write to what is the program's.
            fresh = fresh.clone()
        return fresh.requires_grad_(self._gradient and value.requires_grad)

    def _find(self, value: Tensor) -> Tensor:
        place = self._places.get(id(value))
        if place is None and not self._tracer.recorder.slots.is_known_within(value):
            if self._enclosing is not None:
                value = self._enclosing(value)
            place = self._places.get(id(value))
            if place is None:
                place = self._capture(value)
        return value if place is None else self._stand_ins[place]

    def _capture(self, value: Tensor) -> int:
        with suspended():
            stand_in = self._fresh(value)
        place = len(self._captured)
        self._places[id(value)] = self._places[id(stand_in)] = place
        self._captured.append(value)
        self._stand_ins.append(stand_in)
        return place

    def _is_lifted(self, value: Tensor) -> bool:
        return id(value) in self._places or id(value) in self._tangents

    def _place(self, value: Tensor) -> int:
        """Return which input a lifted tensor is; output gradients are counted on from them."""
        if id(value) in self._tangents:
            inputs = len(self._leaves) + len(self._captured) + len(self._numbers)
            return inputs + self._tangents[id(value)]
        return len(self._leaves) + self._places[id(value)]

    def _refuse_left_over(self, graph_module: GraphModule) -> None:
        for node in graph_module.graph.find_nodes(op="get_attr"):
            value = getattr(graph_module, str(node.target), None)
            if isinstance(value, Tensor) and (is_fake(value) or value.requires_grad):
                raise self._unliftable(name_of(value, self._body))

    def _refuse_escapes(self, outputs: Sequence[Tensor]) -> None:
        """Refuse a gradient that would leave the call by another way than its inputs.

        A `torch.autograd.Function` that is given a captured tensor knows the tensor itself.
        """
        pending = [output.grad_fn for output in outputs]
        seen = set()
        while pending:
            node = pending.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            variable = getattr(node, "variable", None)
            if variable is None and node._sequence_nr() >= self._start:
                pending += [following for following, _ in node.next_functions]
            elif variable is None or not self._is_own(variable):
                name = name_of(variable, self._body) if variable is not None else ""
                raise self._unliftable(name or name_of(node, self._body))

    def _is_own(self, variable: Tensor) -> bool:
        if self._tracer.recorder.slots.get(variable) is not None:
            return True
        return any(variable is stand_in for stand_in in self._stand_ins)

    def _unliftable(self, name: str) -> _Unliftable:
        return _Unliftable(
            f"a call of {self._operator.name()} captures {repr(name) if name else 'a tensor'} and "
            "hands it to code that torch's function modes do not see, so that it cannot become an "
            "operand",
            hint="pass it as an operand",
            plugin=provider_of(self._operator.definition),
            stage=self._operator.name(),
            location=current_location(),
        )

    def _conclude(self, graph_module: GraphModule, order: list[int]) -> Examination:
        outputs = range(self._output_count)
        effects = effects_of(graph_module).renamed(dict(enumerate(order)), outputs)
        captured = tuple(self._captured)
        if not self._wanted:
            return Examination(captured, self._numbers, effects, self._differentiable)
        takes = tuple(order[index] for index in _keep_gradients(graph_module))
        gradient = Gradient(graph_module, takes, self._wanted, self._layouts)
        return Examination(captured, self._numbers, effects, self._differentiable, gradient)


def _keep_gradients(graph_module: GraphModule) -> list[int]:
    """Let a graph of outputs and gradients return the gradients; give the placeholders it needs."""
    graph = graph_module.graph
    output = graph.output_node()
    (outputs_and_gradients,) = output.args
    assert isinstance(outputs_and_gradients, tuple)
    output.args = outputs_and_gradients[1:]
    graph.eliminate_dead_code()
    kept = []
    for index, node in enumerate(graph.find_nodes(op="placeholder")):
        if node.users:
            kept.append(index)
        else:
            graph.erase_node(node)
    _separate_outputs(graph_module)
    graph_module.recompile()
    return kept


def _separate_outputs(graph_module: GraphModule) -> None:
    """Let what a graph returns share no memory; a gradient may well be a view of another one."""
    effects = effects_of(graph_module)
    sharing = {index for index, _ in effects.views} | {other for _, other in effects.shared}
    output = graph_module.graph.output_node()
    nodes: Any = output.args[0]
    separate = list(nodes)
    for index in sharing:
        with graph_module.graph.inserting_before(output):
            clone = graph_module.graph.call_function(aten.clone.default, (nodes[index],))
        clone.meta = dict(nodes[index].meta)
        separate[index] = clone
    output.args = (separate,)


def _number(shape_env: ShapeEnv, symbol: Any) -> torch.SymInt | None:
    hint = shape_env.backed_var_to_val.get(symbol)
    number = shape_env.create_symintnode(symbol, hint=None if hint is None else int(hint))
    return number if isinstance(number, torch.SymInt) else None


def _requires_grad(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _layout(tensor: Tensor) -> tuple[int, ...]:
    """Return the dimensions of a dense tensor from the outermost in memory to the innermost."""
    dimensions = tuple(range(tensor.dim()))
    if tensor.is_contiguous():
        return dimensions
    strides = tensor.stride()
    return tuple(sorted(dimensions, key=lambda dimension: -strides[dimension]))


def _is_dense(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and internal_overlap(tensor) == 0
