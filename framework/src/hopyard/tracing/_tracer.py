"""One capture: from a function and values to a graph module."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node, Proxy

from hopyard_hookspecs import TracingMode as TracingModeName

from .._stamps import stamp_graph
from .._torch.dispatch import HigherOrderOperator
from .._torch.fake import FakeTensorMode
from .._torch.predispatch import enable_python_dispatcher, hide_state_recorder
from .._torch.proxies import ProxyTorchDispatchMode, suspend_tracing
from .._torch.pytree import tree_leaves
from .._torch.symbolic import ShapeEnv, insert_deferred_runtime_asserts
from ..errors import CaptureError, HopyardError, UnsupportedError
from ._explanations import explain
from ._inputs import refuse_transformed
from ._mode import DecompositionTable, TracingMode, with_defaults
from ._techniques import Techniques
from .bridge._reentry import announced
from .bridge._regions import Region, lift_captured
from .memory._calls import FakeCalls, RealCalls
from .memory._propagation import Propagation
from .memory._trained_calls import CallsAboveAutograd
from .predispatch._modes import separate_threads
from .predispatch._regions import admit_all
from .provenance._locations import current_location, raising_location
from .provenance._module_calls import noticed
from .provenance._module_stack import ModulePaths, ModuleStack
from .provenance._origin import Origin
from .provenance._stack_traces import StackTraces
from .recording._recorder import Recorder
from .recording._values import ValueRecorder
from .symbols._arithmetic import Arithmetic
from .symbols._refusals import undecidable_reported

TraceRuleFunction = Callable[
    ["Tracer", HigherOrderOperator, tuple[Any, ...], Mapping[str, Any]], Any
]
"""Records a call of a higher-order operator through a tracer and returns the call's result."""


class Placeholder(NamedTuple):
    """An input of the graph to be.

    Attributes:
        name: What the node is called, as far as the name is free.
        default: Empty, or the default value of the parameter.
    """

    name: str
    default: tuple[Any, ...] = ()


@dataclass(frozen=True)
class TracingOptions:
    """How a capture and the captures of regions within it are done.

    Attributes:
        tracing_mode: `"fake"`, `"real"` or `"symbolic"`.
        fake_mode: Computes fake values; None in real captures.
        decompositions: Operators to record as what they decompose into.
        trace_rules: How to record higher-order operators, by name; overrides their own rules.
        surroundings: Context managers entered, in order, around the user's code.
        stack_traces: Writes the source lines of nodes; None if they are not wanted.
        pre_dispatch: Whether operators are recorded above autograd.
        module_paths: Where the modules are found that nodes tell they were made in; None if nodes
            do not tell.
        refuse_reading: Whether reading the value of a real tensor is refused.
        techniques: What makes the capture fast.
    """

    tracing_mode: TracingModeName
    fake_mode: FakeTensorMode | None = None
    decompositions: DecompositionTable = field(default_factory=dict)
    trace_rules: Mapping[str, TraceRuleFunction] = field(default_factory=dict)
    surroundings: tuple[Callable[[], AbstractContextManager[Any]], ...] = ()
    stack_traces: StackTraces | None = None
    pre_dispatch: bool = False
    module_paths: ModulePaths | None = None
    refuse_reading: bool = True
    techniques: Techniques = field(default_factory=Techniques.chosen)


class Tracer:
    """Captures one function.

    A tracer is used once. Regions inside the function are captured by tracers of their own, which
    share the fake mode and the options.

    Args:
        options: How the capture is done.
        outer: The tracer of the function that this one's is a region of.
        graph: A graph to add to; a new one by default.
        root: The module that owns what the graph reads; a new one by default.

    Attributes:
        recorder: The graph under construction.
        options: How the capture is done.
        refusal: The first reason for which the capture must fail, also if the program catches it.
        declined: The last operator that was left to a tensor subclass, and the subclass.
        enable_thunkify: Read and set by torch while it computes with symbolic numbers.
        is_around: Says of a tensor that no node stands for whether it comes from around the
            function, so that regions within are given it; None if nothing does.
    """

    def __init__(
        self,
        options: TracingOptions,
        outer: Tracer | None = None,
        *,
        graph: Graph | None = None,
        root: torch.nn.Module | None = None,
    ) -> None:
        self.options = options
        self._outer = outer
        techniques = options.techniques
        if options.fake_mode is not None and options.fake_mode.propagate_real_tensors:
            # What is made directly is fake only, with no real tensor behind it.
            techniques = techniques.without("memory", "direct_values")
        self._memory = techniques.memory
        values = ValueRecorder(
            options.fake_mode,
            direct=techniques.direct_values,
            above_transforms=options.pre_dispatch,
        )
        self._arithmetic = self._new_arithmetic() if techniques.arithmetic else None
        modules = None if options.module_paths is None else ModuleStack(options.module_paths)
        self.recorder: Recorder = Recorder(
            values,
            Origin(options.stack_traces, modules),
            lazy_code=techniques.lazy_code,
            arithmetic=self._arithmetic,
            outer=None if outer is None else outer.recorder,
            graph=graph,
            root=root,
        )
        self.refusal: Exception | None = None
        self.declined: tuple[str, str] | None = None
        self.enable_thunkify = False
        self.is_around: Callable[[Tensor], bool] | None = None
        self._mode = TracingMode(self, options.decompositions)

    def new_calls(self, decompositions: DecompositionTable) -> FakeCalls | RealCalls | None:
        """Return an empty memory of calls, for one decomposition table; None if switched off."""
        if not self._memory:
            return None
        fake_mode = self.options.fake_mode
        if fake_mode is None:
            return RealCalls(self.recorder, decompositions)
        if self.options.pre_dispatch:
            return CallsAboveAutograd(self.recorder, decompositions)
        direct = self.options.techniques.direct_propagation and Propagation.suits(fake_mode)
        propagation = Propagation(self.recorder.values.fakes) if direct else None
        return FakeCalls(self.recorder, decompositions, propagation)

    def _new_arithmetic(self) -> Arithmetic | None:
        if self._outer is not None:
            return self._outer._arithmetic
        return None if self.shape_env is None else Arithmetic(self.shape_env)

    @property
    def mode(self) -> TracingMode:
        """The dispatch mode that sees the operators of the captured function."""
        return self._mode

    @property
    def shape_env(self) -> ShapeEnv | None:
        """What the fake mode knows of symbolic sizes; None in real captures and static ones."""
        fake_mode = self.options.fake_mode
        return None if fake_mode is None else fake_mode.shape_env

    @property
    def root(self) -> torch.nn.Module:
        """The module that owns what the graph's `get_attr` nodes read."""
        return self.recorder.root

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def trace(
        self,
        function: Callable[..., Any],
        values: Sequence[Any],
        placeholders: Sequence[Placeholder],
        name: str,
        annotation: Any = None,
    ) -> GraphModule:
        """Run `function(*values)` and return what it did.

        Args:
            function: Called once. What it returns becomes the graph's output.
            values: One per placeholder, fake tensors in fake captures.
            placeholders: The inputs of the graph.
            name: The name of the graph module's class.
            annotation: The return annotation that the generated code shows.

        Raises:
            CaptureError: The function raised, or did something that a graph cannot hold.
        """
        with self._explained(), self._computing():
            with suspend_tracing():
                for placeholder, value in zip(placeholders, values, strict=True):
                    self._add_input(placeholder, value)
            with self._surroundings():
                output = function(*values)
                if self.refusal is not None:
                    raise self.refusal
                if self._outer is None:
                    refuse_transformed(tree_leaves(output), "an output")
                self.recorder.output(output, annotation)
            traced = self.recorder.finish(name)
            self._stamp(traced)
            return traced

    def _stamp(self, traced: GraphModule) -> None:
        """Let passes know that the values in the graph are what its nodes compute.

        Real values are not what fake ones would be in every respect, and above autograd what an
        operator computes depends on what the program says of autocast.
        """
        fake_mode = self.options.fake_mode
        if fake_mode is None or fake_mode.propagate_real_tensors or self.options.pre_dispatch:
            return
        stamp_graph(traced, fake_mode)

    @contextmanager
    def recording(self) -> Generator[None, None, None]:
        """Record what this thread does, instead of what a function does.

        Inputs and the output are the caller's matter.

        Raises:
            CaptureError: The program raised, or did something that a graph cannot hold.
        """
        with self._explained(), self._computing(), self._surroundings():
            yield
            if self.refusal is not None:
                raise self.refusal

    @contextmanager
    def _explained(self) -> Generator[None, None, None]:
        """Let errors tell where and why, and forget in the end which node stands for what."""
        try:
            yield
        except HopyardError as error:
            if isinstance(error, CaptureError) and error.partial_graph is None:
                error.partial_graph = self.recorder.graph
                error.location = error.location or raising_location(error.__traceback__)
            raise
        except Exception as error:
            explained = explain(error, self.declined, self.shape_env, self.recorder.graph)
            explained.partial_graph = self.recorder.graph
            raise explained from error
        finally:
            self.recorder.slots.clear()
            self.recorder.objects.clear()
            if self._outer is None and self._arithmetic is not None:
                self._arithmetic.end()

    def _add_input(self, placeholder: Placeholder, value: Any) -> None:
        try:
            self.recorder.placeholder(placeholder.name, value, placeholder.default)
        except CaptureError:
            raise
        except Exception as error:
            raise UnsupportedError(
                f"the example input {placeholder.name} cannot be described in a graph: {error}",
                hint="pass the plain tensors that it is made from",
                stage="capture",
            ) from error

    def record_higher_order(
        self, operator: HigherOrderOperator, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Record a call of a higher-order operator by the rule of the session, its own or torch's.

        Raises:
            UnsupportedError: There is no rule.
        """
        rule = self.options.trace_rules.get(operator.name())
        if rule is None:
            rule = getattr(operator, "trace_rule", None)
        torch_rule = operator.python_key_table.get(ProxyTorchDispatchMode)
        if rule is None and torch_rule is not None:
            return torch_rule(self._mode, *args, **kwargs)
        if rule is None:
            raise UnsupportedError(
                f"no rule for tracing the higher-order operator {operator.name()!r}",
                hint="install a plugin that registers a trace rule for it "
                "(hook hopyard_register_trace_rules)",
                stage="capture",
                location=current_location(),
            )
        return rule(self, operator, args, kwargs)

    def subtracer(self, decompositions: DecompositionTable | None = None) -> Tracer:
        """Return a tracer for a body inside the captured function."""
        traces = self.options.stack_traces
        options = dataclasses.replace(
            self.options, stack_traces=None if traces is None else traces.for_region()
        )
        if decompositions is not None:
            options = dataclasses.replace(options, decompositions=with_defaults(decompositions))
        return Tracer(options, self)

    def trace_region(self, body: Callable[..., Any], operands: Sequence[Any], name: str) -> Region:
        """Capture the body of a higher-order operator.

        A tensor or symbolic number that the body uses and that this tracer knows becomes an input
        of the region; anything else that it uses becomes a constant of the region.
        """
        inner = self.subtracer()
        inner.recorder.symbols.ask = self.recorder.symbols.number
        placeholders = [Placeholder(f"arg{index}_1") for index in range(len(operands))]
        graph_module = inner.trace(body, operands, placeholders, name)
        inner.check_when_run(graph_module)
        region = lift_captured(graph_module, self._is_captured)
        return region._replace(captured=(*inner.recorder.symbols.captured, *region.captured))

    def check_when_run(self, graph_module: GraphModule) -> None:
        """Let a body check what was promised of numbers that are only known when it runs."""
        if self.shape_env is not None:
            insert_deferred_runtime_asserts(graph_module, self.shape_env, "a region")
            graph_module.recompile()

    def record_call(
        self,
        operator: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        name: str,
    ) -> Node:
        """Add a call to the graph without running it."""
        return self.recorder.call(operator, args, kwargs, name)

    def with_proxies(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """Return `values`, those of the placeholders, with proxies in place of modules."""
        nodes = self.recorder.graph.find_nodes(op="placeholder")
        return tuple(
            Proxy(node, self._mode.tracer) if isinstance(value, torch.nn.Module) else value
            for node, value in zip(nodes, values, strict=True)
        )

    def track(self, value: Any, node: Node) -> Any:
        """Let `node` stand for `value` and return `value`."""
        self.recorder.bind_symbols(node, value, self.shape_env)
        self.recorder.track(value, node)
        return value

    @property
    def is_nested(self) -> bool:
        """Whether it captures a region of another tracer's function."""
        return self._outer is not None

    def _is_captured(self, value: Tensor) -> bool:
        if self.recorder.slots.get(value) is not None:
            return True
        if self.is_around is not None and self.is_around(value):
            return True
        if value.requires_grad and torch.is_grad_enabled():
            # It is nobody's, and would be a constant whose gradient nobody asks for.
            return True
        # What only a capture further out knows becomes a constant of this graph, which is then
        # lifted there.
        return self._outer is not None and self._outer._is_captured(value)

    @contextmanager
    def _computing(self) -> Generator[None, None, None]:
        """Enter what values are computed with."""
        pre_dispatch = self.options.pre_dispatch
        with ExitStack() as stack:
            if self._outer is None:
                # Another capture goes on around this one. What happens here is none of its program.
                stack.enter_context(hide_state_recorder())
                stack.enter_context(_grad_mode_restored())
            stack.enter_context(_autocast_cache_disabled())
            if self._outer is None:
                stack.enter_context(undecidable_reported(self.shape_env, self.refuse))
            if self.options.fake_mode is not None:
                stack.enter_context(self.options.fake_mode)
                # Above autograd the tracer sees an operator once; the fake mode sees what it calls,
                # and may remember that unless the look-up would add guards.
                remembers = pre_dispatch and self.options.tracing_mode == "fake"
                if self.options.techniques.single_memory and not remembers:
                    stack.enter_context(_own_cache_disabled(self.options.fake_mode))
            # Before the surroundings, which may ask for the tracer.
            stack.enter_context(announced(self))
            if pre_dispatch:
                separate_threads()
                admit_all(TracingMode)
            if pre_dispatch or self.options.tracing_mode == "symbolic":
                stack.enter_context(enable_python_dispatcher())
            yield

    def refuse(self, error: Exception) -> None:
        """Let the capture fail for a reason, even if the program catches the error."""
        self.refusal = self.refusal or error

    @contextmanager
    def _surroundings(self) -> Generator[None, None, None]:
        """Enter what sees the user's code: modes of plugins, then the tracer's own."""
        with ExitStack() as stack:
            for surrounding in self.options.surroundings:
                stack.enter_context(surrounding())
            stack.enter_context(self._mode)
            stack.enter_context(noticed(self.recorder.origin.modules))
            yield


@contextmanager
def suspended() -> Generator[None, None, None]:
    """Enter a context in which no tracer records, neither ours nor torch's."""
    with suspend_tracing(), hide_state_recorder():
        yield


@contextmanager
def _own_cache_disabled(fake_mode: FakeTensorMode) -> Generator[None, None, None]:
    # What reaches the fake mode is new to this trace; hashing it once more would only cost.
    enabled = fake_mode.cache_enabled
    fake_mode.cache_enabled = False
    try:
        yield
    finally:
        fake_mode.cache_enabled = enabled


@contextmanager
def _grad_mode_restored() -> Generator[None, None, None]:
    # A program that ends in another grad mode does so when it runs, not when it is captured.
    enabled = torch.is_grad_enabled()
    try:
        yield
    finally:
        torch.set_grad_enabled(enabled)


@contextmanager
def _autocast_cache_disabled() -> Generator[None, None, None]:
    # A cached cast of a parameter would appear as an untracked tensor.
    enabled = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(enabled)
