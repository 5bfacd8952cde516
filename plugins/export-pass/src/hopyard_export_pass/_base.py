"""The base of passes that replay a graph node by node through callbacks."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, ClassVar

from torch.fx import Graph, GraphModule, Interpreter, Node
from torch.fx.graph import CodeGen
from torch.nn import Module

from hopyard.errors import HopyardError
from hopyard.replaying import Computation, FakeTensor, FakeTensorMode, TorchPassResult

from ._errors import ReplayError, at_node
from ._inputs import computation_for, fake_mode_of, inputs_of
from ._regions import (
    COND,
    MAP,
    SCAN,
    WHILE_LOOP,
    bodies_in,
    body_surroundings,
    loop_inputs,
    region_inputs,
    slices_of,
)
from ._replay import Replay
from ._reuse import is_reuse_on
from ._targets import Callback, callback_for
from ._tracer import ExportTracer as GraphTracer
from ._values import NodeMetadata, ProxyValue, active_tracer, data_of, expose, map_leaves

_replay: ContextVar[Replay | None] = ContextVar("hopyard_export_pass_replay", default=None)
_beginning: ContextVar[tuple[Computation, FakeTensorMode] | None] = ContextVar(
    "hopyard_export_pass_beginning", default=None
)
"""What the graph that a pass was called with is replayed under."""


class ExportPass:
    """A pass that replays a graph node by node and emits another one.

    Every node of the graph, and of the bodies of regions in it, is given to the callback for its
    kind. A callback that is not overridden emits the same node again; one that is may change the
    arguments, emit other nodes, or none. Arguments of callbacks are :class:`ProxyValue` handles,
    plain values, and the tensors and modules that the graph reads as attributes. Metadata of
    emitted nodes is inherited from the replayed node; what they compute is copied with them where
    nothing can have changed it, and computed anew elsewhere, under the fake mode of the graph. The
    replayed graph is left as it is, and tensors are shared.

    Example:
        .. code-block:: python

            @dataclass(frozen=True)
            class CosForSin(ExportPass):
                def call_operator(self, op, args, kwargs, meta):
                    if op is torch.ops.aten.sin.default:
                        op = torch.ops.aten.cos.default
                    return super().call_operator(op, args, kwargs, meta)

    Results are torch's own, which torch's and ExecuTorch's managers of passes insist on.

    Instances hold no state of a replay, so one instance may be used by several threads, and a pass
    may be a frozen dataclass whose fields are its options. A class with an `__init__` of its own
    must call `super().__init__()`.
    """

    ExportTracer: ClassVar[type[GraphTracer]] = GraphTracer
    """What records a graph; see :attr:`tracer`."""

    def __init__(self) -> None:
        # A dataclass may be frozen.
        object.__setattr__(self, "_initialized", True)

    def __post_init__(self) -> None:
        """Initialize an instance of a dataclass, whose generated `__init__` calls this."""
        ExportPass.__init__(self)

    def __call__(self, graph_module: GraphModule, /) -> TorchPassResult:
        """Check what the pass requires, run it, and check what it ensures; see :meth:`call`."""
        self.requires(graph_module)
        result = self.call(graph_module)
        self.ensures(graph_module)
        return result

    def requires(self, graph_module: GraphModule) -> None:
        """Check a graph before the pass runs; raise if the pass cannot run on it."""

    def ensures(self, graph_module: GraphModule) -> None:
        """Check the graph that was given after the pass has run."""

    def call(self, graph_module: GraphModule) -> TorchPassResult:
        """Replay a graph. Overridden by passes that edit the graph before or after.

        Returns:
            The new graph, and whether it differs from the given one in what it does or in what its
            metadata says.

        Raises:
            ReplayError: A callback raised, the graph cannot be replayed, or the pass has not called
                `super().__init__()`.
        """
        stage = type(self).__name__
        if not getattr(self, "_initialized", False):
            raise ReplayError(
                f"{stage} was not initialized",
                stage=stage,
                hint="call super().__init__() in its __init__",
            )
        inputs = self.inputs(graph_module)
        computation, describing = computation_for(
            graph_module, fake_mode_of(graph_module, inputs, stage)
        )
        # The graph itself is replayed as a body is, through the callback for bodies.
        outer = _replay.set(None)
        beginning = _beginning.set((computation, describing))
        try:
            with computation.surroundings():
                return self.call_submodule(graph_module, tuple(inputs))
        finally:
            _beginning.reset(beginning)
            _replay.reset(outer)

    # Callbacks.

    def inputs(self, graph_module: GraphModule) -> list[Any]:
        """Return a value for each input of a graph.

        That is what `graph_module.meta["args"]` says, or else the metadata of the input: the
        constant that it is known to be, its value, or a tensor that fits `tensor_meta`. None stands
        for an input without metadata that nothing uses.

        Raises:
            ReplayError: An input that is used has no metadata.
        """
        return inputs_of(graph_module, type(self).__name__)

    def placeholder(self, name: str, arg: Any, meta: NodeMetadata) -> ProxyValue:
        """Replay an input. Programs refuse graphs whose inputs are not as they were.

        Args:
            name: What the input is called.
            arg: Its fake value.
            meta: Its metadata.
        """
        return (_replay.get() or self._active).placeholder(name, arg, meta)

    def on_attr(self, attr: ProxyValue) -> None:
        """Observe the read of a tensor attribute, one of the graph or one that the pass adds.

        Callbacks are given such a tensor itself as an argument.
        """

    def call_operator(
        self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: NodeMetadata
    ) -> Any:
        """Replay a call of an operator, for example of `torch.ops.aten.add.Tensor`."""
        return (_replay.get() or self._active).call(op, args, kwargs, meta)

    def call_sym(
        self, target: Callable[..., Any], args: tuple[Any, ...], meta: NodeMetadata
    ) -> Any:
        """Replay a function of numbers, for example `operator.add` or `torch.sym_max`."""
        return self._active.call(target, args, {}, meta)

    def call_getitem(self, value: Any, key: Any, meta: NodeMetadata) -> Any:
        """Replay the choice of one of several results.

        Args:
            value: The handle of all results, or a container of handles that a callback returned.
            key: Which one.
            meta: The metadata of the node.
        """
        if not isinstance(value, ProxyValue):
            return value[key]
        return (_replay.get() or self._active).getitem(value, key, meta)

    def call_cond(
        self,
        pred: Any,
        true_fn: GraphModule,
        false_fn: GraphModule,
        inputs: Sequence[Any],
        meta: NodeMetadata,
    ) -> Any:
        """Replay `torch.cond`, as :meth:`call_hop` does."""
        return self.call_hop(COND, (pred, true_fn, false_fn, inputs), {}, meta)

    def call_map(
        self,
        f: GraphModule,
        mapped_args: Sequence[Any],
        operands: Sequence[Any],
        meta: NodeMetadata,
    ) -> Any:
        """Replay torch's `map`, as :meth:`call_hop` does."""
        return self.call_hop(MAP, (f, mapped_args, operands), {}, meta)

    def call_while_loop(
        self,
        cond_fn: GraphModule,
        body_fn: GraphModule,
        carried_inputs: Sequence[Any],
        additional_inputs: Sequence[Any],
        meta: NodeMetadata,
    ) -> Any:
        """Replay `torch.while_loop`, and the graphs of its condition and of its body.

        Numbers that the loop carries are in the graphs what their own inputs say: they differ from
        round to round.
        """
        given = (*carried_inputs, *additional_inputs)
        bodies = [
            self.call_submodule(body, tuple(loop_inputs(body, given))).graph_module
            for body in (cond_fn, body_fn)
        ]
        args = (*bodies, carried_inputs, additional_inputs)
        return self._active.call(WHILE_LOOP, args, {}, meta)

    def call_scan(
        self,
        combine_fn: GraphModule,
        init: Sequence[Any],
        xs: Sequence[Any],
        additional_inputs: Sequence[Any],
        meta: NodeMetadata,
    ) -> Any:
        """Replay torch's `scan`, and the graph that combines what is carried with each slice."""
        slices = slices_of(combine_fn, len(init), xs)
        given = loop_inputs(combine_fn, (*init, *slices, *additional_inputs))
        body = self.call_submodule(combine_fn, tuple(given)).graph_module
        return self._active.call(SCAN, (body, init, xs, additional_inputs), {}, meta)

    def call_delegate(
        self,
        lowered_module: Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        meta: NodeMetadata,
    ) -> Any:
        """Replay a call of what a backend has compiled, which is left as it is."""
        target = self._active.node.target
        return self._active.call(target, (lowered_module, *args), kwargs, meta)

    def call_hop(
        self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: NodeMetadata
    ) -> Any:
        """Replay a call of a higher-order operator, and the body of each region it is given.

        The inputs of a body are the operands where it is known how the operator passes them on, and
        what the body's own metadata says where it is not. A body of which neither is known is left
        as it is.
        """
        inputs = region_inputs(op, args)

        def descend(value: Any) -> Any:
            if not isinstance(value, GraphModule):
                return value
            given = inputs if inputs is not None else self._inputs_of_body(value)
            return value if given is None else self.call_submodule(value, given).graph_module

        if any(True for _ in bodies_in((args, kwargs))):
            with body_surroundings(op, args):
                args, kwargs = map_leaves(descend, args), map_leaves(descend, kwargs)
        return self._active.call(op, args, kwargs, meta)

    def call_submodule(self, graph_module: GraphModule, inputs: tuple[Any, ...]) -> TorchPassResult:
        """Replay the graph, or the body of a region as a graph of its own.

        Args:
            graph_module: The graph or body.
            inputs: What it is called with: handles or values.
        """
        values = [each if type(each) is FakeTensor else data_of(each) for each in inputs]
        outer, beginning = _replay.get(), _beginning.get()
        if outer is None and beginning is not None:
            whole = Replay(self, graph_module, *beginning, reuse=is_reuse_on())
            return TorchPassResult(*self._run(whole, graph_module, values))
        outer = self._active

        def replay() -> tuple[GraphModule, bool]:
            return self._run(outer.for_body(graph_module), graph_module, values)

        return TorchPassResult(*outer.body(graph_module, values, replay))

    def output(self, results: Any, meta: NodeMetadata) -> Any:
        """Replay the output of a graph or of a body.

        Args:
            results: A handle or plain value, or a container of them.
            meta: The metadata of the node.
        """
        return self._active.output(results, meta)

    # What callbacks may ask of a replay that is going on.

    @staticmethod
    def _create_dummy_node_metadata() -> NodeMetadata:
        """Return metadata for a node that comes from no node: the line of the pass that asks."""
        return NodeMetadata({"stack_trace": "".join(traceback.format_stack(limit=2)[:1])})

    @property
    def tracer(self) -> GraphTracer:
        """What records the graph that is being made."""
        replay = _replay.get()
        if replay is None:
            return GraphTracer(self, CodeGen())
        expose(replay.tracer.graph)
        return replay.tracer

    @property
    def interpreter(self) -> Interpreter:
        """A plain interpreter, of no graph in particular."""
        return Interpreter(GraphModule(Module(), Graph()))

    @property
    def fake_tensor_mode(self) -> FakeTensorMode | None:
        """The fake mode that describes values; None between replays."""
        replay = _replay.get()
        return None if replay is None else replay.tracer.fake_tensor_mode

    @property
    def node_debug_str(self) -> str | None:
        """The node that is replayed, as text; None between replays."""
        replay = _replay.get()
        return None if replay is None else replay.node.format_node()

    def _fx(
        self,
        kind: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        meta: NodeMetadata,
    ) -> Any:
        """Emit a node of any kind, past the callbacks."""
        if kind == "output":
            return self._active.output(args[0], meta)
        return self._active.call(target, args, kwargs, meta)

    @property
    def _active(self) -> Replay:
        replay = _replay.get()
        if replay is None:
            raise ReplayError(
                "a callback was called while no graph is replayed",
                stage=type(self).__name__,
                hint="call the pass with a graph module",
            )
        return replay

    # The replay itself.

    def _run(
        self, replay: Replay, graph_module: GraphModule, inputs: Sequence[Any]
    ) -> tuple[GraphModule, bool]:
        outer, tracing = _replay.set(replay), active_tracer.set(replay.tracer)
        try:
            self._replay_nodes(replay, graph_module, iter(inputs))
            return replay.finish()
        except ReplayError:
            raise
        except Exception as cause:
            problem = cause.message if isinstance(cause, HopyardError) else str(cause)
            raise self._error(replay.node, f"raised {type(cause).__name__}: {problem}") from cause
        finally:
            active_tracer.reset(tracing)
            _replay.reset(outer)

    def _replay_nodes(self, replay: Replay, graph_module: GraphModule, inputs: Any) -> None:
        """Give each node to its callback. Measured by `make bench-passes`."""
        begin, end, arguments = replay.begin, replay.end, replay.arguments
        new = NodeMetadata.__new__
        is_operator, is_getitem = Callback.OPERATOR, Callback.GETITEM
        callbacks: dict[int, Callback | None] = {}
        for node in graph_module.graph.nodes:
            begin(node)
            # The copy of the node's metadata, which is made when somebody asks for all of it.
            meta = new(NodeMetadata)
            meta._data, meta._origin = None, node.meta
            op = node.op
            if op == "call_function":
                target = node.target
                known = callbacks.get(id(target), _UNSEEN)
                if known is _UNSEEN:
                    known = callbacks[id(target)] = callback_for(target)
                args, kwargs = arguments(node)
                if known is is_operator:
                    result = self.call_operator(target, args, kwargs, meta)
                elif known is is_getitem:
                    result = self.call_getitem(args[0], args[1], meta)
                else:
                    result = self._call(node, known, args, kwargs, meta)
            elif op == "placeholder":
                value = next(inputs, _UNSEEN)
                if value is _UNSEEN:
                    value = self._default(node)
                result = self.placeholder(node.target, value, meta)
            elif op == "get_attr":
                replay.read(node)
                continue
            elif op == "output":
                result = self.output(arguments(node)[0][0], meta)
            else:
                raise self._error(
                    node,
                    f"is a {op}, which cannot be replayed",
                    hint="capture the program with hopyard or torch.export, which record operators",
                )
            if result is None:
                if node.users:
                    raise self._error(
                        node,
                        "has no result after its callback, but is used",
                        hint="return what the callback of the base returns",
                    )
            elif result is replay.copied:
                continue
            end(node, result)

    def _call(
        self,
        node: Node,
        callback: Callback | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        meta: NodeMetadata,
    ) -> Any:
        target: Any = node.target
        if callback is Callback.SYM:
            return self.call_sym(target, args, meta)
        if callback is Callback.DELEGATE:
            return self.call_delegate(args[0], args[1:], kwargs, meta)
        if callback is Callback.COND and not kwargs:
            pred, true_fn, false_fn, *operands = args
            return self.call_cond(pred, true_fn, false_fn, operands[0] if operands else (), meta)
        if callback is Callback.MAP and not kwargs:
            body, mapped, operands = args
            return self.call_map(body, mapped, operands, meta)
        if callback is Callback.WHILE_LOOP and not kwargs:
            condition, body, carried, additional = args
            return self.call_while_loop(condition, body, carried, additional, meta)
        if callback is Callback.SCAN and not kwargs:
            combine, init, xs, additional = args
            return self.call_scan(combine, init, xs, additional, meta)
        if callback is not None:
            return self.call_hop(target, args, kwargs, meta)
        raise self._error(
            node,
            f"calls {target!r}, which is no operator",
            hint="call an operator overload, such as torch.ops.aten.add.Tensor",
        )

    def _inputs_of_body(self, body: GraphModule) -> tuple[Any, ...] | None:
        try:
            return tuple(self.inputs(body))
        except ReplayError:
            return None

    def _default(self, node: Node) -> Any:
        if node._args:
            return node._args[0]
        raise self._error(node, "is an input for which no value is given")

    def _error(self, node: Node, problem: str, hint: str = "") -> ReplayError:
        return at_node(node, problem, type(self).__name__, hint)


_UNSEEN: Any = object()
