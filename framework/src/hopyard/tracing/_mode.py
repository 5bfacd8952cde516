"""The dispatch mode that sees every operator of a captured program."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Node, traceback

from .._torch.dispatch import (
    PROXY_SLOT,
    DispatchKey,
    HigherOrderOperator,
    OpOverload,
    TorchDispatchMode,
    autograd_would_have_decomposed,
    keep_from_dynamo,
    push_mode,
    unset_infra_mode,
)
from .._torch.fake import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    is_fake,
)
from .._torch.inductor import emulates_precision_casts
from .._torch.proxies import ProxyTorchDispatchMode
from .._torch.pytree import tree_flatten, tree_leaves
from .._torch.symbolic import GuardOnDataDependentSymNode, SymNode, is_accessor_node
from ..errors import CaptureError, DataDependentError, UnsupportedError
from ._explanations import note_failure
from ._infrastructure import Infrastructure
from .bridge._torch_tracer import TorchTracer
from .memory._calls import Call, FakeCalls, RealCalls
from .memory._operators import needs_exact_strides
from .memory._propagation import MISSING
from .provenance._inherited import operator_noted
from .provenance._locations import current_location
from .recording._constants import ConstantFolder

if TYPE_CHECKING:
    from ._tracer import Tracer

aten = torch.ops.aten

DecompositionTable = Mapping[OpOverload, Callable[..., Any]]

_PLAIN_TENSORS = (Tensor, torch.nn.Parameter, FakeTensor)
_DEVICE = torch.ops.prim.device.default
_SIZE_QUERIES = (aten.size.default, aten.stride.default, aten.storage_offset.default)
_LOW_PRECISION = (torch.bfloat16, torch.float16)


REFUSALS = (
    CaptureError,
    DataDependentOutputException,
    DynamicOutputShapeException,
    GuardOnDataDependentSymNode,
)
"""What only a capture raises. A program that catches it took a path that it would not take by
itself.
"""


def with_defaults(table: DecompositionTable | None) -> DecompositionTable:
    """Return a decomposition table with what is decomposed in every capture, unless it says how."""
    return {aten.sym_numel.default: _number_of_elements, **(table or {})}


def _number_of_elements(tensor: Tensor) -> int:
    return functools.reduce(operator.mul, tensor.shape, 1)


class TracingMode(Infrastructure, ProxyTorchDispatchMode):
    """Records operators in the order in which they are dispatched.

    It sits in torch's proxy slot, below autograd and functorch and above fake tensors, where torch
    and its higher-order operators look for an active tracer; in a pre-dispatch capture in the slot
    of that name above autograd, and composite operators are recorded as they are. It derives from
    torch's mode only to pass their type checks: every method is its own.

    Attributes:
        tracer: The tracer in the form that torch's rules for its own operators ask for.
        decomposition_table: Operators that are recorded as what they decompose into.
    """

    supports_higher_order_operators = True

    def __init__(self, tracer: Tracer, decomposition_table: DecompositionTable) -> None:
        self.pre_dispatch = tracer.options.pre_dispatch
        TorchDispatchMode.__init__(self, DispatchKey.PreDispatch if self.pre_dispatch else None)
        self._mode_key = PROXY_SLOT
        self._capture = tracer
        self.tracer: Any = TorchTracer(tracer)
        tracer.recorder.fx_tracer = self.tracer
        self.decomposition_table = decomposition_table
        self.emulate_precision_casts = emulates_precision_casts()
        self._decomposing = 0
        # Used by torch's rule for regions that are traced once and called often.
        self._invoke_subgraph_names: set[str] = set()
        self._invoke_subgraph_cache: dict[Any, str] = {}
        self.calls = self._new_calls()
        self._displaced: list[TorchDispatchMode | None] = []

    def __enter__(self) -> TracingMode:
        self._displaced.append(unset_infra_mode(PROXY_SLOT))
        TorchDispatchMode.__enter__(self)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        exc_traceback: TracebackType | None,
    ) -> None:
        TorchDispatchMode.__exit__(self, exc_type, exc_value, exc_traceback)
        displaced = self._displaced.pop()
        if displaced is not None:
            push_mode(displaced)

    @contextmanager
    def enable_decompositions(
        self, decomposition_table: DecompositionTable | None
    ) -> Generator[DecompositionTable, None, None]:
        """Use another decomposition table for a while."""
        previous = self.decomposition_table, self.calls
        self.decomposition_table = decomposition_table or {}
        self.calls = self._new_calls()
        try:
            yield self.decomposition_table
        finally:
            self.decomposition_table, self.calls = previous

    def _new_calls(self) -> FakeCalls | RealCalls | None:
        # The memory does not know of the marks that emulating casts leaves on nodes.
        if self.emulate_precision_casts:
            return None
        return self._capture.new_calls(self.decomposition_table)

    def __sym_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Record an operation on symbolic numbers; called by torch with the mode suspended."""
        if func is operator.mul:
            # Sizes are multiplied by one all the time. Comparing a symbol with one would make a
            # guard.
            left, right = args
            if type(right) is int and right == 1:
                return left
            if type(left) is int and left == 1:
                return right
        result = func(*args)
        tracer = self._capture
        try:
            tracer.recorder.symbols.record(func, args, result, lazily=tracer.enable_thunkify)
        except CaptureError as error:
            tracer.refuse(error)
            raise
        return result

    def record_arithmetic(
        self,
        function: Callable[[Any, Any], Any],
        left: SymNode,
        right: SymNode,
        compute: Callable[[Any, Any], SymNode],
    ) -> SymNode:
        """Do as `__sym_dispatch__` does, for numbers that remember what they compute."""
        if function is operator.mul:
            if right.constant == 1:
                return left
            if left.constant == 1:
                return right
        result = compute(left, right)
        tracer = self._capture
        try:
            tracer.recorder.symbols.record_operation(
                function, left, right, result, lazily=tracer.enable_thunkify
            )
        except CaptureError as error:
            tracer.refuse(error)
            raise
        return result

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Record one operator and run it."""
        if traceback.should_preserve_node_meta and isinstance(func, OpOverload):
            # A question about the device as well: what comes next is of no operator then.
            with operator_noted(func):
                return self._see(func, args, kwargs or {})
        if func is _DEVICE and type(args[0]) is FakeTensor:
            # Asked for at almost every operator; a fake tensor knows without a dispatch.
            return args[0].fake_device
        return self._see(func, args, kwargs or {})

    def _see(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func is _DEVICE:
            return args[0].fake_device if type(args[0]) is FakeTensor else func(*args, **kwargs)
        try:
            if type(func) is not OpOverload and isinstance(func, HigherOrderOperator):
                return self._capture.record_higher_order(func, args, kwargs)
            call = None if self.calls is None else self.calls.read(func, args, kwargs)
            if call is not None and self.calls is not None:
                output = self.calls.replay(func, call, args, kwargs)
                if output is not MISSING:
                    return output
            return self._dispatch_unseen(func, args, kwargs, call)
        except Exception as error:
            note_failure(error, func, (args, kwargs))
            if isinstance(error, TypeError):
                self._note_subclass(func, (args, kwargs))
            if isinstance(error, REFUSALS):
                self._capture.refusal = self._capture.refusal or error
            raise

    def _dispatch_unseen(
        self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], call: Call | None
    ) -> Any:
        leaves, spec = tree_flatten((args, kwargs))
        if not all(self._is_known(leaf) for leaf in leaves if isinstance(leaf, Tensor)):
            self._note_subclass(func, leaves)
            return NotImplemented
        if func in self.decomposition_table:
            result = self._decomposed(func, args, kwargs)
            if result is not NotImplemented:
                self._mark_low_precision()
                return result
            # It may accept the next call, which must not go by the memory of this one.
            call = None
        if not self.pre_dispatch and func not in _SIZE_QUERIES:
            result = self._decompose_composite(func, args, kwargs, leaves)
            if result is not NotImplemented:
                return result
        if func is aten.is_nonzero.default:
            return self._truth_of(args[0])

        folder = ConstantFolder(self._capture.recorder.slots, leaves, spec)
        if torch.Tag.data_dependent_output in func.tags:
            if folder.all_constant:
                return folder.evaluate(func)
            if self._capture.options.refuse_reading:
                _refuse_reading(func, leaves)
        return self._record(func, args, kwargs, folder, call)

    def _decompose_composite(
        self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], leaves: list[Any]
    ) -> Any:
        """Run what autograd would have called instead, if it is left out in this call."""
        if not autograd_would_have_decomposed(func, leaves):
            return NotImplemented
        with self:
            return func.decompose(*args, **kwargs)

    def _record(
        self,
        func: OpOverload,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        folder: ConstantFolder,
        call: Call | None,
    ) -> Any:
        if func is aten.lift_fresh.default:
            # The tensor made by torch.tensor() becomes an attribute of the graph module. Were it
            # returned as it is, an in-place operation on it would change the attribute from one run
            # to the next.
            func = aten.lift_fresh_copy.default
        if func._schema.is_mutable and self._capture.options.fake_mode is not None:
            _refuse_real_writes(func, args, kwargs)
        recorder = self._capture.recorder
        node = recorder.call(func, args, kwargs, func.overloadpacket.__name__)
        if needs_exact_strides(func):
            recorder.values.annotate_operands(node)
        if is_accessor_node(node):
            # Above autograd sizes that are plain numbers are asked for by an operator as well.
            recorder.symbols.used = True
        output = self._run(func, args, kwargs)
        recorder.bind_symbols(node, output, self._capture.shape_env)
        constant = folder.result(func, args, output)
        if constant is None and folder.any_constant and func._schema.is_mutable:
            for tensor in written_operands(func, args, kwargs):
                recorder.slots.forget_constants(tensor)
        recorder.track(output, node, constant)
        if call is not None and self.calls is not None:
            self.calls.learn(call, output)
        self._mark_low_precision()
        return output

    def _decomposed(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._decomposing += 1
        try:
            with self:
                return self.decomposition_table[func](*args, **kwargs)
        finally:
            self._decomposing -= 1

    def _mark_low_precision(self) -> None:
        """Tell compilers to round where eager kernels round, after the last node.

        Only what the program itself calls is marked: a kernel does not round between the operators
        that it decomposes into.
        """
        if not self.emulate_precision_casts or self._decomposing:
            return
        node = next(reversed(self._capture.recorder.graph.nodes))
        if any(_is_low_precision(each) for each in (node, *node.all_input_nodes)):
            node.meta["low_precision_pointwise_barrier"] = True

    def _run(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator; symbolic numbers that it computes on the way enter the graph only if
        used.
        """
        lazy = self._capture.enable_thunkify
        self._capture.enable_thunkify = True
        try:
            return func(*args, **kwargs)
        finally:
            self._capture.enable_thunkify = lazy

    def _truth_of(self, tensor: Tensor) -> Any:
        if tensor.numel() != 1:
            raise RuntimeError("Boolean value of Tensor with more than one value is ambiguous")
        with self:
            return (tensor != 0).item()

    def _note_subclass(self, func: Any, operands: Any) -> None:
        """Keep who did not handle an operator: Python's own operators hide it."""
        for leaf in tree_leaves(operands):
            kind = type(leaf)
            if isinstance(leaf, Tensor) and kind not in _PLAIN_TENSORS:
                self._capture.declined = str(func), f"{kind.__module__}.{kind.__qualname__}"

    def _is_known(self, tensor: Tensor) -> bool:
        return (
            type(tensor) in _PLAIN_TENSORS or self._capture.recorder.slots.get(tensor) is not None
        )


def _is_low_precision(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype in _LOW_PRECISION


def _refuse_reading(func: OpOverload, leaves: list[Any]) -> None:
    """Refuse to read a real tensor's value, which would become part of the graph unseen."""
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if any(isinstance(tensor, FakeTensor) for tensor in tensors):
        return
    raise DataDependentError(
        f"{func} reads the value of a tensor that is only known when the program runs",
        hint="keep the value in a tensor (torch.where, masking), or pass it as a Python number",
        stage="capture",
        location=current_location(),
        operator=str(func),
    )


def _refuse_real_writes(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse to write to a tensor that is not fake: it is the user's, and would really change."""
    if any(not is_fake(tensor) for tensor in written_operands(func, args, kwargs)):
        raise UnsupportedError(
            f"{func} changes a tensor that the program closes over",
            hint="pass the tensor as an input, or register it as a buffer of the module",
            stage="capture",
            location=current_location(),
            operator=str(func),
        )


# torch's control flow compiles itself when it is called, and would compile the dispatch below it.
keep_from_dynamo(TracingMode.__torch_dispatch__)


def written_operands(
    func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[Tensor]:
    """Yield the tensors that a call changes in place, lists of them included."""
    parameters = func._schema.arguments
    given = {**dict(zip([each.name for each in parameters], args, strict=False)), **kwargs}
    for parameter in parameters:
        if parameter.alias_info is not None and parameter.alias_info.is_write:
            for value in tree_leaves(given.get(parameter.name)):
                if isinstance(value, Tensor):
                    yield value
