"""Graphs again, with operators replaced by what they decompose into."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Interpreter, Node

from hopyard_hookspecs import TracingMode as TracingModeName

from ..._torch.dispatch import HigherOrderOperator
from ..._torch.fake import detect_fake_mode
from ..._torch.proxies import current_proxy_mode
from ..._torch.pytree import tree_map_only
from ...errors import UsageError
from .._make_fx import trace_function
from .._mode import DecompositionTable, with_defaults
from .._tracer import Tracer, TracingOptions
from ._appender import GraphAppender
from ._replay import Replay

Predicate = Callable[[Node], bool]


@contextmanager
def decompose(
    decomposition_table: DecompositionTable | None,
) -> Generator[DecompositionTable, None, None]:
    """Let the capture in progress on this thread decompose by another table for a while.

    The table takes the place of the capture's own; None stands for an empty one. It is for code
    that runs inside a capture, such as a rule for an operator::

        with hopyard.tracing.decompose({aten.silu.default: lambda x: x * x.sigmoid()}):
            y = torch.nn.functional.silu(x)

    Raises:
        UsageError: Nothing is being captured.
    """
    mode = current_proxy_mode()
    if mode is None:
        raise UsageError(
            "nothing is being captured on this thread",
            hint="enter decompose() inside the captured function, or give make_fx the table",
            stage="decompose",
        )
    with mode.enable_decompositions(decomposition_table) as table:
        yield table


class DecompositionInterpreter(Interpreter):
    """Runs a graph and adds to another one what it does, decomposed by a table.

    Inputs and attributes keep their names. Nodes tell the value that they compute; inside
    `torch.fx.traceback.preserve_node_meta()` they also take over the rest of the metadata of the
    node they were made from, such as its source line. ::

        graph = torch.fx.Graph()
        interpreter = DecompositionInterpreter(graph_module, graph, table)
        interpreter.run(*inputs)
        decomposed = torch.fx.GraphModule(interpreter.root, graph)

    Args:
        module: The graph to run.
        new_graph: The graph to add to.
        decomposition_table: Operators to record as what they decompose into.
        **options: As for `torch.fx.Interpreter`.

    Attributes:
        new_graph: As given.
        decomposition_table: As given.
        root: After a run, the module that owns what the new graph reads.
    """

    def __init__(
        self,
        module: GraphModule,
        new_graph: Graph,
        decomposition_table: DecompositionTable | None = None,
        **options: Any,
    ) -> None:
        super().__init__(module, **options)
        self.new_graph = new_graph
        self.decomposition_table: DecompositionTable = decomposition_table or {}
        self.root = torch.nn.Module()
        self._appender: GraphAppender | None = None

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph on example inputs, real or fake, and return its result.

        Raises:
            CaptureError: A node cannot be run or recorded.
        """
        self._appender = GraphAppender(
            self.new_graph,
            self.root,
            decomposition_table=self.decomposition_table,
            fake_mode=detect_fake_mode(args),
        )
        with self._appender.recording():
            return super().run(*args, **kwargs)

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Add an input and return its value."""
        value = super().placeholder(target, args, kwargs)
        self._appending.placeholder(target, value)
        return value

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return the value of an attribute; the new graph reads it under the same name.

        The body of a region is read where the region is called, since it is traced anew there.
        """
        value = super().get_attr(target, args, kwargs)
        if not isinstance(value, GraphModule):
            self._appending.read(target, value)
        return value

    def output(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Close the new graph and return the result."""
        value = super().output(target, args, kwargs)
        self._appending.output(value)
        return value

    @property
    def _appending(self) -> GraphAppender:
        assert self._appender is not None
        return self._appender


def selective_decompose(
    graph_module: GraphModule,
    *args: Any,
    decomposition: DecompositionTable | None,
    should_decompose: Predicate,
    trace_joint_graph: bool,
) -> GraphModule:
    """Return a graph again, with chosen nodes decomposed.

    The table applies to whatever a chosen node calls. If a node that calls a higher-order operator
    is chosen, so is everything in its bodies; if not, the nodes in its bodies are asked for one by
    one. ::

        in_attention = lambda node: "attention" in str(node.meta.get("nn_module_stack"))
        selective_decompose(
            graph_module, *inputs,
            decomposition=table, should_decompose=in_attention, trace_joint_graph=False,
        )

    Args:
        graph_module: The graph.
        *args: Example inputs, real or fake; of a joint graph the list of primals and the list of
            tangents.
        decomposition: Operators to record as what they decompose into.
        should_decompose: Says whether a node is chosen.
        trace_joint_graph: Whether the graph holds a forward and a backward pass. The inputs of the
            new one are called `primals` and `tangents` then, by which partitioners tell them.

    Raises:
        CaptureError: A node cannot be run or recorded.
    """
    selection = _Selection(decomposition, should_decompose)

    def joint(primals: Any, tangents: Any) -> Any:
        return _SelectiveReplay(graph_module, selection).run(primals, tangents)

    def alone(*given: Any) -> Any:
        return _SelectiveReplay(graph_module, selection).run(*given)

    fake_mode = detect_fake_mode(args)
    mode: TracingModeName = "real" if fake_mode is None else "fake"
    options = TracingOptions(mode, fake_mode, with_defaults(None))
    return trace_function(Tracer(options), joint if trace_joint_graph else alone, args)


class _Selection:
    """Which nodes of a graph, and of the bodies in it, a table applies to."""

    def __init__(self, table: DecompositionTable | None, should_decompose: Predicate) -> None:
        self.table = table
        self.should_decompose = should_decompose
        self._bodies: dict[tuple[GraphModule, bool], Callable[..., Any]] = {}

    def body(self, graph_module: GraphModule, *, everything: bool) -> Callable[..., Any]:
        """Return a function that runs a body: the same one for the same body, by which operators
        tell that two calls share it.
        """
        key = graph_module, everything
        if key not in self._bodies:
            self._bodies[key] = _SelectiveReplay(graph_module, self, everything=everything).run
        return self._bodies[key]


class _SelectiveReplay(Replay):
    """Runs a graph with a table that applies to chosen nodes, or to all of them."""

    def __init__(
        self, graph_module: GraphModule, selection: _Selection, *, everything: bool = False
    ) -> None:
        super().__init__(graph_module, self._table_for)
        self._selection = selection
        self._everything = everything
        self._chosen = everything

    def fetch_args_kwargs_from_env(self, n: Node) -> Any:
        """Return the arguments of a node; the bodies among them run node by node as well."""
        given = super().fetch_args_kwargs_from_env(n)
        if not isinstance(n.target, HigherOrderOperator):
            return given
        body = functools.partial(self._selection.body, everything=self._chosen)
        return tree_map_only(GraphModule, body, given)

    def _table_for(self, node: Node) -> AbstractContextManager[Any]:
        self._chosen = self._everything or self._selection.should_decompose(node)
        return decompose(self._selection.table) if self._chosen else nullcontext()
