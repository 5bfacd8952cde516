"""The base of passes that replay a graph node by node through callbacks."""

from __future__ import annotations

import operator
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from hopyard.errors import HopyardError
from hopyard.operators import HigherOrderOperator, OpOverload, OpOverloadPacket
from hopyard.tracing import fake_mode_for, node_location
from hopyard_hookspecs import PassResult

from ._compare import same_graph
from ._errors import ReplayError
from ._regions import region_inputs
from ._replay import Replay
from ._values import NodeMetadata, ProxyValue, leaves_of, map_leaves

_replay: ContextVar[Replay] = ContextVar("hopyard_export_pass_replay")

_NUMBER_MODULES = ("_operator", "builtins", "math")
_COND = torch.ops.higher_order.cond
_MAP = torch.ops.higher_order.map_impl


class ExportPass:
    """A pass that replays a graph node by node and emits another one.

    Every node of the graph, and of the bodies of regions in it, is given to the callback for its
    kind. A callback that is not overridden emits the same node again; one that is may change the
    arguments, emit other nodes, or none. Arguments of callbacks are :class:`ProxyValue` handles,
    plain values, and the tensors and modules that the graph reads as attributes. Metadata of
    emitted nodes is inherited from the replayed node; what they compute is computed anew, under the
    fake mode of the graph. The replayed graph is left as it is, and tensors are shared.

    Example:
        .. code-block:: python

            @dataclass(frozen=True)
            class CosForSin(ExportPass):
                def call_operator(self, op, args, kwargs, meta):
                    if op is torch.ops.aten.sin.default:
                        op = torch.ops.aten.cos.default
                    return super().call_operator(op, args, kwargs, meta)

    Instances hold no state of a replay, so one instance may be used by several threads, and a pass
    may be a frozen dataclass whose fields are its options. A class with an `__init__` of its own
    must call `super().__init__()`.
    """

    def __init__(self) -> None:
        # A dataclass may be frozen.
        object.__setattr__(self, "_initialized", True)

    def __post_init__(self) -> None:
        """Initialize an instance of a dataclass, whose generated `__init__` calls this."""
        ExportPass.__init__(self)

    def __call__(self, graph_module: GraphModule, /) -> PassResult:
        """Run the pass; see :meth:`call`."""
        if not getattr(self, "_initialized", False):
            raise ReplayError(
                f"{type(self).__name__} was not initialized",
                stage=type(self).__name__,
                hint="call super().__init__() in its __init__",
            )
        return self.call(graph_module)

    def call(self, graph_module: GraphModule) -> PassResult:
        """Replay a graph. Overridden by passes that edit the graph before or after.

        Returns:
            The new graph, and whether it differs from the given one in what it does or in what its
            metadata says.

        Raises:
            ReplayError: A callback raised, or the graph cannot be replayed.
        """
        inputs = self.inputs(graph_module)
        with _surroundings(self._fake_mode(graph_module)) as fake_mode:
            return self._run(graph_module, inputs, fake_mode)

    def inputs(self, graph_module: GraphModule) -> list[Any]:
        """Return a value for each input of a graph: what its metadata says.

        Raises:
            ReplayError: An input that is used has no metadata.
        """
        return [self._input(node) for node in graph_module.graph.find_nodes(op="placeholder")]

    def placeholder(self, name: str, arg: Any, meta: NodeMetadata) -> ProxyValue:
        """Replay an input. Programs refuse graphs whose inputs are not as they were.

        Args:
            name: What the input is called.
            arg: Its fake value.
            meta: Its metadata.
        """
        return _replay.get().placeholder(name, arg, meta)

    def on_attr(self, attr: ProxyValue) -> None:
        """Observe the read of a tensor attribute, one of the graph or one that the pass adds.

        Callbacks are given such a tensor itself as an argument.
        """

    def call_operator(
        self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: NodeMetadata
    ) -> Any:
        """Replay a call of an operator, for example of `torch.ops.aten.add.Tensor`."""
        return _replay.get().call(op, args, kwargs, meta)

    def call_sym(
        self, target: Callable[..., Any], args: tuple[Any, ...], meta: NodeMetadata
    ) -> Any:
        """Replay a function of numbers, for example `operator.add` or `torch.sym_max`."""
        return _replay.get().call(target, args, {}, meta)

    def call_getitem(self, value: Any, key: Any, meta: NodeMetadata) -> Any:
        """Replay the choice of one of several results.

        Args:
            value: The handle of all results, or a container of handles that a callback returned.
            key: Which one.
            meta: The metadata of the node.
        """
        if not isinstance(value, ProxyValue):
            return value[key]
        return _replay.get().call(operator.getitem, (value, key), {}, meta)

    def call_cond(
        self,
        pred: Any,
        true_fn: GraphModule,
        false_fn: GraphModule,
        inputs: Sequence[Any],
        meta: NodeMetadata,
    ) -> Any:
        """Replay `torch.cond`, as :meth:`call_hop` does."""
        return self.call_hop(_COND, (pred, true_fn, false_fn, inputs), {}, meta)

    def call_map(
        self,
        f: GraphModule,
        mapped_args: Sequence[Any],
        operands: Sequence[Any],
        meta: NodeMetadata,
    ) -> Any:
        """Replay torch's `map`, as :meth:`call_hop` does."""
        return self.call_hop(_MAP, (f, mapped_args, operands), {}, meta)

    def call_hop(
        self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: NodeMetadata
    ) -> Any:
        """Replay a call of a higher-order operator, and the body of each region it is given.

        The inputs of a body are the operands where it is known how the operator passes them on, and
        what the body's own metadata says where it is not.
        """
        inputs = region_inputs(op, args)

        def descend(value: Any) -> Any:
            if not isinstance(value, GraphModule):
                return value
            given = inputs if inputs is not None else tuple(self.inputs(value))
            return self.call_submodule(value, given).graph_module

        args, kwargs = map_leaves(descend, args), map_leaves(descend, kwargs)
        return _replay.get().call(op, args, kwargs, meta)

    def call_submodule(self, graph_module: GraphModule, inputs: tuple[Any, ...]) -> PassResult:
        """Replay the body of a region as a graph of its own.

        Args:
            graph_module: The body.
            inputs: What it is called with: handles or values.
        """
        outer = _replay.get()
        values = [item.data if isinstance(item, ProxyValue) else item for item in inputs]
        results: list[PassResult] = []

        def replay() -> GraphModule:
            results.append(self._run(graph_module, values, outer.fake_mode))
            return results[0].graph_module

        body = outer.body(graph_module, values, replay)
        modified = results[0].modified if results else not same_graph(graph_module, body)
        return PassResult(body, modified)

    def output(self, results: Any, meta: NodeMetadata) -> Any:
        """Replay the output of a graph or of a body.

        Args:
            results: A handle or plain value, or a container of them.
            meta: The metadata of the node.
        """
        return _replay.get().output(results, meta)

    def _run(self, graph_module: GraphModule, inputs: Sequence[Any], fake_mode: Any) -> PassResult:
        replay = Replay(graph_module, fake_mode, self.on_attr)
        token = _replay.set(replay)
        remaining = iter(inputs)
        values: dict[Node, Any] = {}
        try:
            for node in graph_module.graph.nodes:
                replay.node = node
                values[node] = self._replay_node(node, values, remaining)
            made = replay.finish()
        finally:
            _replay.reset(token)
        return PassResult(made, not same_graph(graph_module, made))

    def _replay_node(self, node: Node, values: Mapping[Node, Any], inputs: Any) -> Any:
        try:
            result = self._dispatch(node, values, inputs)
        except ReplayError:
            raise
        except Exception as cause:
            problem = cause.message if isinstance(cause, HopyardError) else str(cause)
            raise self._error(node, f"raised {type(cause).__name__}: {problem}") from cause
        if result is None and node.users and node.op != "get_attr":
            raise self._error(
                node,
                "has no result after its callback, but is used",
                hint="return what the callback of the base returns",
            )
        return result

    def _dispatch(self, node: Node, values: Mapping[Node, Any], inputs: Any) -> Any:
        meta = NodeMetadata(node.meta)
        if node.op == "placeholder":
            return self.placeholder(str(node.target), self._next(node, inputs), meta)
        if node.op == "get_attr":
            return _replay.get().read(node)
        if node.op in ("call_method", "call_module"):
            raise self._error(
                node,
                f"is a {node.op}, which cannot be replayed",
                hint="capture the program with hopyard or torch.export, which record operators",
            )
        args: tuple[Any, ...] = map_leaves(_unchanged, map_arg(node.args, values.__getitem__))
        if node.op == "output":
            return self.output(args[0], meta)
        kwargs: dict[str, Any] = map_leaves(_unchanged, map_arg(node.kwargs, values.__getitem__))
        return self._dispatch_call(node, args, kwargs, meta)

    def _dispatch_call(
        self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], meta: NodeMetadata
    ) -> Any:
        target: Any = node.target
        if target is operator.getitem:
            return self.call_getitem(args[0], args[1], meta)
        if isinstance(target, (OpOverload, OpOverloadPacket)):
            return self.call_operator(target, args, kwargs, meta)
        if target is _COND and not kwargs:
            pred, true_fn, false_fn, *operands = args
            return self.call_cond(pred, true_fn, false_fn, operands[0] if operands else (), meta)
        if target is _MAP and not kwargs:
            body, mapped, operands = args
            return self.call_map(body, mapped, operands, meta)
        if isinstance(target, HigherOrderOperator):
            return self.call_hop(target, args, kwargs, meta)
        if _is_function_of_numbers(target):
            return self.call_sym(target, args, meta)
        raise self._error(
            node,
            f"calls {target!r}, which is no operator",
            hint="call an operator overload, such as torch.ops.aten.add.Tensor",
        )

    def _next(self, node: Node, inputs: Any) -> Any:
        for value in inputs:
            return value
        raise self._error(node, "is an input for which no value is given")

    def _input(self, node: Node) -> Any:
        if "val" in node.meta or not node.users:
            return node.meta.get("val")
        raise self._error(
            node,
            "is an input without meta['val']",
            hint="capture the program with hopyard or torch.export, which write it",
        )

    def _fake_mode(self, graph_module: GraphModule) -> Any:
        found: list[Any] = []
        for node in graph_module.graph.nodes:
            for leaf in leaves_of(node.meta.get("val")):
                mode = getattr(leaf, "fake_mode", None) if isinstance(leaf, Tensor) else None
                if mode is not None and mode not in found:
                    found.append(mode)
            if len(found) > 1:
                raise self._error(
                    node,
                    "has a value of another fake mode than the nodes before it",
                    hint="compute it under the fake mode of its operands",
                )
        return found[0] if found else fake_mode_for(())

    def _error(self, node: Node, problem: str, hint: str = "") -> ReplayError:
        called = f" ({node.target})" if node.op == "call_function" else ""
        return ReplayError(
            f"node {node.name!r}{called} {problem}",
            node=node.name,
            stage=type(self).__name__,
            hint=hint,
            location=node_location(node),
        )


def _unchanged(value: Any) -> Any:
    """Let :func:`map_leaves` turn fx's immutable containers into plain ones."""
    return value


def _is_function_of_numbers(target: Any) -> bool:
    if getattr(target, "__module__", None) in _NUMBER_MODULES:
        return True
    name = getattr(target, "__name__", "")
    return name.startswith("sym_") and getattr(torch, name, None) is target


@contextmanager
def _surroundings(fake_mode: Any) -> Generator[Any, None, None]:
    """Let operators compute what they compute below autograd; attributes are tensors with data."""
    allowed = fake_mode.allow_non_fake_inputs
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for device in {"cpu", torch.get_default_device().type}:
            if torch.amp.is_autocast_available(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(fake_mode)
        fake_mode.allow_non_fake_inputs = True
        try:
            yield fake_mode
        finally:
            fake_mode.allow_non_fake_inputs = allowed
