"""`make_fx`: trace a function on positional tensors, as torch's function of that name does."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.fx import GraphModule
from torch.nn import Module

from hopyard_hookspecs import CaptureRequest
from hopyard_hookspecs import TracingMode as TracingModeName

from .._torch.fake import detect_fake_mode
from .._torch.graphs import PyTreeCodeGen, PyTreeInfo
from .._torch.provenance import are_stack_traces_demanded
from .._torch.pytree import TreeSpec, tree_flatten, tree_unflatten
from ..errors import UnknownNameError, UsageError
from ..plugins import KERNEL_MODES, resolve
from ._inputs import fake_mode_for, fakify, refuse_transformed, symbolize
from ._mode import DecompositionTable, with_defaults
from ._tracer import Placeholder, Tracer, TracingOptions, suspended
from .predispatch._hidden import warn_of_hidden_tensors
from .provenance._module_stack import ModulePaths
from .provenance._stack_traces import ForwardTraces, StackTraces

TRACING_MODES: tuple[TracingModeName, ...] = ("fake", "real", "symbolic")


def make_fx(
    function: Callable[..., Any],
    decomposition_table: DecompositionTable | None = None,
    tracing_mode: TracingModeName = "real",
    _allow_non_fake_inputs: bool = False,
    *,
    pre_dispatch: bool = False,
    record_module_stack: bool = False,
    _allow_fake_constant: bool = False,
    _error_on_data_dependent_ops: bool = True,
    record_stack_traces: bool = False,
    proxy_module_inputs: bool = False,
    _disable_torch_fn_metadata_mode: bool = False,
) -> Callable[..., GraphModule]:
    """Return a function that, called with example inputs, returns `function` as a graph.

    The graph holds aten operators below autograd, with the names, arguments and metadata that
    `torch.fx.experimental.proxy_tensor.make_fx` gives them.

    Args:
        function: A function, module or other callable of positional arguments.
        decomposition_table: Operators to record as what they decompose into.
        tracing_mode: `"real"` computes with the inputs' data, `"fake"` with shapes only,
            `"symbolic"` with sizes and integers as symbols. What was assumed of them is in
            `shape_env` of the result.
        _allow_non_fake_inputs: Whether a fake capture may mix real tensors with fake ones.
        pre_dispatch: Whether to record above autograd and autocast instead of below: composite
            operators as they are, changes of the grad mode and autocast regions as nodes, and what
            function transforms do while a program is exported.
        record_module_stack: Whether `node.meta` names the modules that a node was made in. As with
            torch, that takes a function with an attribute `_orig_mod`, which is the outermost of
            them.
        _allow_fake_constant: Whether a real capture may use fake tensors that are no inputs.
        _error_on_data_dependent_ops: Whether a real capture refuses to read a tensor's value; if
            not, the value becomes part of the graph.
        record_stack_traces: Whether `node.meta["stack_trace"]` holds the lines that led to a node.
        proxy_module_inputs: Whether inputs that are modules are inputs of the graph.
        _disable_torch_fn_metadata_mode: Whether to do without the function mode that notes which
            torch function a node comes from.

    Raises:
        UnknownNameError: `tracing_mode` is another word.
        UsageError: The example inputs do not fit the function's signature (when called).
        CaptureError: The function cannot be captured (when called).

    Warns:
        CaptureWarning: The graph holds constants that a capture above autograd has not seen made.
    """
    if tracing_mode not in TRACING_MODES:
        raise UnknownNameError("tracing mode", tracing_mode, TRACING_MODES)

    # Dynamo, if it compiles whoever calls this, must not look into the tracer.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @functools.wraps(function)
    def traced(*args: Any) -> GraphModule:
        values, spec = tree_flatten(args)
        refuse_transformed(values, "an example input")
        fake_mode = None
        own_fakes = False
        symbolic = tracing_mode == "symbolic"
        if tracing_mode != "real":
            fake_mode = fake_mode_for(
                values, allow_non_fake_inputs=_allow_non_fake_inputs, symbolic=symbolic
            )
            own_fakes = detect_fake_mode(values) is None
            with suspended():
                if symbolic or not fake_mode.static_shapes:
                    values = symbolize(values, fake_mode, integers=symbolic)
                else:
                    values = fakify(values, fake_mode)
        modules = _module_paths(function) if record_module_stack else None
        request = CaptureRequest(function, args, {}, tracing_mode, pre_dispatch)
        options = TracingOptions(
            tracing_mode,
            fake_mode,
            with_defaults(decomposition_table),
            surroundings=_kernel_modes(request, functions=not _disable_torch_fn_metadata_mode),
            stack_traces=_stack_traces(record_stack_traces, modules),
            pre_dispatch=pre_dispatch,
            module_paths=modules,
            refuse_reading=_error_on_data_dependent_ops,
        )
        graph_module = trace_function(
            Tracer(options),
            function,
            tree_unflatten(values, spec),
            proxy_modules=proxy_module_inputs,
        )
        if pre_dispatch:
            warn_of_hidden_tensors(graph_module, fakes=own_fakes)
        if fake_mode is not None and symbolic:
            graph_module.shape_env = fake_mode.shape_env
        return graph_module

    captured: Callable[..., GraphModule] = traced
    return captured


def _kernel_modes(
    request: CaptureRequest, *, functions: bool
) -> tuple[Callable[[], AbstractContextManager[Any]], ...]:
    """Return the modes that the framework's own plugin gives to sessions, for one capture."""
    factories: list[Any] = [
        resolve(mode.factory)
        for mode in KERNEL_MODES
        if functions or mode.name != "function-metadata"
    ]
    return tuple(functools.partial(factory, request) for factory in factories)


def _module_paths(function: Callable[..., Any]) -> ModulePaths | None:
    root = getattr(function, "_orig_mod", None)
    return None if root is None else ModulePaths(root)


def _stack_traces(wanted: bool, modules: ModulePaths | None) -> StackTraces | None:
    if torch.fx.config.do_not_emit_stack_traces:
        return None
    if modules is not None:
        return ForwardTraces(regions=True)
    return ForwardTraces() if wanted or are_stack_traces_demanded() else None


def trace_function(
    tracer: Tracer,
    function: Callable[..., Any],
    args: Sequence[Any],
    *,
    proxy_modules: bool = False,
) -> GraphModule:
    """Trace a function; inputs are named after its parameters, nested ones by number.

    Args:
        tracer: An unused tracer.
        function: A function, module or other callable of positional arguments.
        args: What to call it with, fake tensors in fake captures; nested containers are allowed.
        proxy_modules: Whether the function gets, in place of modules among the arguments, proxies
            that record what is done with them.
    """
    values, spec = tree_flatten(tuple(args))
    names = _parameter_names(function, len(args))
    nested = not all(child.is_leaf() for child in spec.children())
    output_spec: list[TreeSpec] = []

    def run(*leaves: Any) -> Any:
        if proxy_modules:
            leaves = tracer.with_proxies(leaves)
        output = function(*tree_unflatten(list(leaves), spec))
        if not nested:
            return output
        flat, flat_spec = tree_flatten(output)
        output_spec.append(flat_spec)
        return flat

    graph_module: GraphModule = tracer.trace(
        run,
        values,
        _placeholders(function, names, args),
        _name(function),
        # The generated code of a nested output returns what its pytree specification makes.
        None if nested else _return_annotation(function),
    )
    if nested:
        info = PyTreeInfo(names, spec, output_spec[0])
        graph_module.graph.set_codegen(PyTreeCodeGen(info))
        graph_module.recompile()
    return graph_module


def _parameter_names(function: Callable[..., Any], count: int) -> list[str]:
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None or code.co_flags & inspect.CO_VARARGS:
        return [f"arg{index}" for index in range(count)]
    names = list(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
    if inspect.ismethod(inspect.unwrap(function)):
        names = names[1:]
    if len(names) != count:
        raise UsageError(
            f"{_name(function)} takes {len(names)} arguments ({', '.join(names)}), "
            f"but {count} example inputs were given",
            hint="give one example input for each, defaults included",
            stage="make_fx",
        )
    return names


def _placeholders(
    function: Callable[..., Any], names: Sequence[str], args: Sequence[Any]
) -> list[Placeholder]:
    defaults = _defaults(function)
    return [
        Placeholder(f"{name}_{index}", defaults.get(name, ()))
        for name, arg in zip(names, args, strict=True)
        for index in range(1, len(tree_flatten(arg)[0]) + 1)
    ]


def _defaults(function: Callable[..., Any]) -> dict[str, tuple[Any, ...]]:
    if isinstance(function, Module) or not hasattr(inspect.unwrap(function), "__code__"):
        return {}
    parameters = inspect.signature(inspect.unwrap(function)).parameters.values()
    return {
        parameter.name: (parameter.default,)
        for parameter in parameters
        if parameter.default is not inspect.Parameter.empty
    }


def _return_annotation(function: Callable[..., Any]) -> Any:
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None or code.co_flags & inspect.CO_VARARGS:
        return None
    return getattr(function, "__annotations__", {}).get("return")


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)
