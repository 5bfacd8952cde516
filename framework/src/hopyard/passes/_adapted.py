"""Passes that were written for torch or for ExecuTorch, as passes of a pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import field, make_dataclass
from typing import Any, get_type_hints

from torch.fx import GraphModule, Node

from hopyard._graph_copy import copy_graph_module
from hopyard.errors import PassError, PluginError
from hopyard.pipeline._changes import first_change
from hopyard.pipeline._options import is_option_type
from hopyard.pipeline._origin import separate_metadata
from hopyard.verify import walk_graphs
from hopyard.verify._graphs import same_arguments
from hopyard_hookspecs import PassResult

from ._metadata import refresh_values


def adapted(torch_pass: Callable[..., Any]) -> Callable[..., Any]:
    """Return a pass that does what one written for torch or ExecuTorch does.

    ::

        Pass("fuse-permutes", adapted(FusePermutes))

    It may be a subclass of torch's `PassBase`, of torch's own pass base for exported programs or of
    ExecuTorch's `ExportPass`; an instance of one; or a function of a graph module. It is not
    changed. What such passes leave open is done for them: nodes that were made by hand, or with the
    metadata of others, get the values that they compute; a pass that edits a graph and returns
    nothing, or the graph alone, is understood; and whether something changed is found out by
    comparing, not by asking.

    Args:
        torch_pass: The pass. The parameters of a class that pipeline text can give are the options
            of the adapted pass; it is constructed anew for each occurrence in a pipeline.

    Raises:
        PluginError: A class cannot be constructed from what text can give.
    """
    if not isinstance(torch_pass, type):
        return _Adapted(torch_pass)
    name = torch_pass.__name__
    fields: list[Any] = []
    for parameter, wanted in _parameters(torch_pass):
        if not is_option_type(wanted):
            if parameter.default is parameter.empty:
                raise PluginError(
                    f"{name} needs {parameter.name!r} of type {wanted}, which text cannot give",
                    hint="adapt an instance, or a function that makes one",
                    stage="adapted",
                )
        elif parameter.default is parameter.empty:
            fields.append((parameter.name, wanted))
        else:
            fields.append((parameter.name, wanted, field(default=parameter.default)))
    names = [each[0] for each in fields]

    def call(self: Any, graph_module: GraphModule) -> PassResult:
        made = torch_pass(**{each: getattr(self, each) for each in names})
        return _run(made, graph_module)

    return make_dataclass(
        name,
        fields,
        namespace={"__call__": call, "__doc__": inspect.getdoc(torch_pass)},
        frozen=True,
        kw_only=True,
    )


class _Adapted:
    """A function of a graph, or an instance of a pass, as a pass."""

    def __init__(self, torch_pass: Callable[[GraphModule], Any]) -> None:
        self._torch_pass = torch_pass
        self.__doc__ = inspect.getdoc(torch_pass)

    def __call__(self, graph_module: GraphModule) -> PassResult:
        return _run(self._torch_pass, graph_module)


def _run(torch_pass: Callable[[GraphModule], Any], graph_module: GraphModule) -> PassResult:
    before = copy_graph_module(graph_module)
    result = torch_pass(graph_module)
    made = graph_module if result is None else getattr(result, "graph_module", result)
    if not isinstance(made, GraphModule):
        raise PassError(
            f"{type(torch_pass).__name__} returned a {type(result).__name__}",
            hint="let it return torch's PassResult, a graph module, or nothing",
        )
    separate_metadata(made)
    graphs_before = dict(walk_graphs(before))
    for path, body in reversed(list(walk_graphs(made))):
        earlier = graphs_before.get(path)
        known = {node.name: node for node in earlier.graph.nodes} if earlier is not None else {}
        refresh_values(body, [node for node in body.graph.nodes if not _is_as(node, known)])
        body.recompile()
    return PassResult(made, modified=bool(first_change(before, made)))


def _is_as(node: Node, known: dict[str, Node]) -> bool:
    """Say whether a node is one of the graph that the pass was given, with the same operands."""
    before = known.get(node.name)
    return (
        before is not None
        and "val" in node.meta
        and (before.op, before.target) == (node.op, node.target)
        and same_arguments(node.args, before.args, _same_name)
        and same_arguments(node.kwargs, before.kwargs, _same_name)
    )


def _same_name(node: Node, before: Node) -> bool:
    return node.name == before.name


def _parameters(torch_pass: type) -> list[tuple[inspect.Parameter, Any]]:
    """Return the parameters of a constructor with their types; the default's where none is told."""
    try:
        parameters = list(inspect.signature(torch_pass).parameters.values())
        hints = get_type_hints(vars(torch_pass).get("__init__", object.__init__))
    except (NameError, TypeError, ValueError):
        return []
    return [
        (parameter, hints.get(parameter.name, type(parameter.default)))
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
