"""How Dynamo reads a call: as one node whose first operand is the body as a graph.

Dynamo looks up, by an operator's name, a variable that reads its calls. torch's own for such
operators hands over what the body uses, in the order of use, and takes what the body returns for
the result. Ours keeps every operand in its place, puts what the body captures after them, and asks
the definition for the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from ..._torch.compiler import GraphBreak, UncapturedCall, UserError, settings
from ..._torch.dynamo import (
    CONTAINER_VARIABLES,
    ConstantVariable,
    GuardBuilder,
    NumberVariable,
    OperatorVariable,
    OverridingVariable,
    Variable,
    container_variable,
    fake_result,
    graph_variable,
    install_guard,
    operator_variables,
    read_attribute,
    realized,
    set_example,
    trace_body,
)
from ..._torch.pytree import tree_leaves, tree_map_only
from ...errors import UnsupportedError
from ...tracing import nest_inputs
from .._operator import Operator
from .._provider import provider_of
from ._refusals import line_of, line_of_node, reason_of

_DEPTH = 16
"""How many regions may lie in each other; a body that calls itself knows no end."""


class CompileRefusal(UncapturedCall, UnsupportedError):
    """A call that a compiler cannot keep as one node; both torch's error and ours."""

    def __init__(
        self, operator: Operator, what: str, hint: str, *, stack: Any = None, node: Any = None
    ) -> None:
        text = f"a call of {operator.name()} {what}"
        UncapturedCall.__init__(self, text, stack)
        UnsupportedError.__init__(
            self,
            text,
            hint=hint,
            plugin=provider_of(operator.definition),
            stage=operator.name(),
            location=line_of_node(node) or line_of(self.real_stack),
        )


class CallVariable(OperatorVariable):
    """An operator without a body, as Dynamo sees it."""

    _HOP_NAME = "an operator of hopyard.hops"

    value: Operator

    def __init__(self, value: Operator, source: Any = None, **options: Any) -> None:
        super().__init__(value, source, **options)
        self._HOP_NAME = value.name()
        if source is not None:
            # Dynamo guards on the type of an operator alone, and ours are all of one type.
            install_guard(source.make_guard(GuardBuilder.ID_MATCH))

    def python_type(self) -> type:
        """Return the type of the operator."""
        return type(self.value)

    def call_function(self, tx: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Read a call.

        Raises:
            CompileRefusal: It cannot be kept as one node.
        """
        try:
            if any(isinstance(leaf, OverridingVariable) for leaf in _leaves(args)):
                return super().call_function(tx, args, kwargs)
            # Function modes are to see what the body does, and the call is not one of theirs.
            return self._call_function(tx, args, kwargs)
        except (GraphBreak, UserError, RecursionError) as error:
            raise CompileRefusal(
                self.value,
                f"does not fit in a graph: {reason_of(str(error))}",
                "move it out of the region, or write it with tensor operators",
                stack=getattr(error, "real_stack", None),
            ) from error

    def _call_function(self, tx: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        args, kwargs = realized((args, kwargs))
        rule = self.value.definition.rules.get("dynamo")
        return rule(self, tx, args, kwargs) if rule else self.record(tx, args, kwargs)

    def record(self, tx: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Write the call to the graph and return the variable of its result.

        Raises:
            CompileRefusal: It cannot be kept as one node.
        """
        proxy = tx.output.create_proxy(
            "call_function",
            self.value,
            tuple(self._given(index, each) for index, each in enumerate(args)),
            self._settled(kwargs),
        )
        return _result(tx, proxy, fake_result(proxy.node, tx), {})

    def _given(self, index: int, operand: Any) -> Any:
        """Return an operand as the graph holds it."""
        for leaf in _leaves(operand):
            if not (leaf.is_python_constant() or leaf.maybe_fx_node() is not None):
                raise self.refusal(
                    f"has a {leaf.python_type().__name__} as operand {index}, which a graph "
                    "cannot hold",
                    "pass tensors and plain values, and let the body close over the rest",
                )
        return operand.as_proxy()

    def _settled(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the configuration as plain values; the compiled code is for these alone."""
        settled = {}
        for name, variable in config.items():
            if isinstance(variable, NumberVariable):
                settled[name] = variable.evaluate_expr()
            elif variable.is_python_constant():
                settled[name] = variable.as_python_constant()
            else:
                raise self.refusal(
                    f"has a {variable.python_type().__name__} as its configuration {name!r}",
                    "pass tensors as operands; configuration is plain values",
                )
        return settled

    def refusal(self, what: str, hint: str, node: Node | None = None) -> CompileRefusal:
        """Return the error for a call that does something which it must not."""
        return CompileRefusal(self.value, what, hint, node=node)


class RegionVariable(CallVariable):
    """An operator with a body, as Dynamo sees it."""

    _HOP_NAME = "a region of hopyard.hops"

    def record(self, tx: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Write the call with its body to the graph and return the variable of its result."""
        operator = self.value
        self._refuse_depth(tx)
        body, *operands = args
        config = self._settled(kwargs)
        given = [self._given(index, each) for index, each in enumerate(operands)]
        watched = _Watched(self, body)
        # An export would leave out a print, and let the rest of the body pass.
        with settings.patch(reorderable_logging_functions=set()):
            (_, _), graph, captured = trace_body(
                tx,
                watched,
                operands,
                {},
                operator.name(),
                source_target=operator,
                set_subgraph_inputs="flatten_manual",
            )
        placeholders = graph.find_nodes(op="placeholder")
        count = len(placeholders) - len(captured)
        names = [f"operand {index}" for index in range(count)]
        names += [f"the captured {node.name!r}" for node in placeholders[count:]]
        self._check_inputs(graph, placeholders, names, count)
        output = graph.output_node()
        outputs = watched.filled(output.args[0])
        # What it returns as it was given its caller has already. Whoever writes to that writes to
        # the input, and a compiler wants to know it as the input.
        kept = _without_inputs(outputs) if operator.runs_its_body else outputs
        output.args = (kept,)
        graph_module = GraphModule(dict(tx.output.nn_modules), graph)
        if any(isinstance(each, (list, tuple, dict)) for each in given):
            nest_inputs(graph_module, given)
        name = tx.output.install_subgraph(f"{operator.name()}_body", graph_module)
        proxy = tx.output.create_proxy(
            "call_function", operator, (read_attribute(tx, name), *given, *captured), config
        )
        inputs = dict(zip(placeholders, [*tree_leaves(given), *captured], strict=True))
        same = {id(_example(node)): inputs[node] for node in placeholders if _is_value(node)}
        if operator.runs_its_body and not _makes_symbols(graph):
            example = tree_map_only(Node, _example, outputs)
        else:
            example = fake_result(proxy.node, tx)
        if not operator.definition.writes:
            self._refuse_sharing(names, placeholders, example, tree_leaves(outputs))
        return _result(tx, proxy, example, same)

    def _refuse_depth(self, tx: Any) -> None:
        """Refuse a body that calls itself, before Dynamo runs out of stack."""
        depth, tracer = 0, tx.output.current_tracer
        while tracer is not None:
            depth, tracer = depth + 1, tracer.parent
        if depth > _DEPTH:
            raise self.refusal(
                f"lies in more than {_DEPTH} regions: its body seems to call itself",
                "write the recursion as a loop, or end it by a value that is known beforehand",
            )

    def _check_inputs(
        self, graph: Graph, placeholders: Sequence[Node], names: Sequence[str], count: int
    ) -> None:
        """Refuse a body that captures or writes to what it must not.

        Args:
            graph: The body.
            placeholders: Its inputs.
            names: What to call them.
            count: How many of them are operands; the others are what it captures.
        """
        operator = self.value
        if len(names) > count and not operator.takes_captured:
            raise self.refusal(
                f"takes {names[count]}, which would become a further operand, and the operator "
                "takes operands of a fixed number",
                "pass it as an operand, or define the operator as (body, *operands, **config)",
            )
        if operator.definition.writes:
            return
        for index in getattr(graph, "_dynamo_mutated_input_indices", ()):
            raise self.refusal(
                f"changes {names[index]} in place",
                "return the new value instead, or clone it first",
                _writer(placeholders[index]),
            )

    def _refuse_sharing(
        self,
        names: Sequence[str],
        placeholders: Sequence[Node],
        result: Any,
        outputs: Sequence[Any],
    ) -> None:
        """Refuse a result of which a graph without views could not tell where its memory is from.

        Args:
            names: What to call the inputs.
            placeholders: The inputs.
            result: The result with fake tensors.
            outputs: The nodes that the body returns.
        """
        examples = [node.meta.get("example_value") for node in placeholders]
        given = {id(example) for example in examples}
        memory: dict[int, str] = {}
        for name, example in zip(names, examples, strict=True):
            memory.setdefault(_memory(example), name)
        leaves = tree_leaves(result)
        for index, leaf in enumerate(leaves):
            storage = _memory(leaf)
            if storage == 0 or id(leaf) in given:
                continue
            if storage in memory:
                raise self.refusal(
                    f"returns output {index} in the memory of {memory[storage]}",
                    "return a clone of it",
                    outputs[index] if len(outputs) == len(leaves) else None,
                )
            memory[storage] = f"output {index}"


class _Watched(Variable):
    """A body that hands over its tensors and numbers, and keeps what they were returned in."""

    def __init__(self, call: RegionVariable, body: Any) -> None:
        super().__init__()
        self._call = call
        self._body = body
        self._returned: Any = None

    def call_function(self, tx: Any, args: Any, kwargs: Any) -> Any:
        """Run the body."""
        self._returned = realized(self._body.call_function(tx, args, kwargs))
        carried = [leaf for leaf in _leaves(self._returned) if not leaf.is_python_constant()]
        for leaf in carried:
            if leaf.maybe_fx_node() is None:
                raise self._call.refusal(
                    f"returns a {leaf.python_type().__name__}",
                    "return tensors and numbers, in tuples, lists and dictionaries",
                )
        return container_variable(tx, tuple(carried))

    def filled(self, nodes: Any) -> Any:
        """Return what the body returned, with nodes for the tensors and numbers."""
        return _filled(self._returned, iter(nodes))


def _filled(variable: Any, nodes: Iterator[Node]) -> Any:
    if variable.is_python_constant():
        return variable.as_python_constant()
    if not isinstance(variable, CONTAINER_VARIABLES):
        return next(nodes)
    if isinstance(variable.items, dict):
        pairs = variable.items.items()
        return {key.vt.as_python_constant(): _filled(item, nodes) for key, item in pairs}
    return variable.python_type()([_filled(item, nodes) for item in variable.items])


def register(operator: Operator) -> None:
    """Let Dynamo read the calls of an operator."""
    region = operator.definition.kind == "region"
    operator_variables[operator.name()] = RegionVariable if region else CallVariable


def _leaves(value: Any) -> Iterator[Any]:
    """Yield the variables in containers of variables."""
    if isinstance(value, CONTAINER_VARIABLES):
        value = value.items
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _writer(node: Node) -> Node | None:
    """Return the first node that may write to what a node stands for."""
    memory = _memory(_example(node))
    pending = list(node.users)
    for user in pending:
        name = user.target if isinstance(user.target, str) else user.target.__name__
        if name == "setitem" or "out" in user.kwargs or (name[-1] == "_" and name[-2:] != "__"):
            return user
        pending += [each for each in user.users if _memory(_example(each)) == memory]
    return None


def _without_inputs(outputs: Any) -> Any:
    return tree_map_only(Node, lambda node: None if node.op == "placeholder" else node, outputs)


def _example(node: Node) -> Any:
    return node.meta.get("example_value")


def _makes_symbols(graph: Graph) -> bool:
    """Say whether each run makes symbols for values that are only known then."""
    return any("unbacked_bindings" in node.meta for node in graph.nodes)


def _is_value(node: Node) -> bool:
    """Say whether a graph has the value of an input from elsewhere: it is no constant."""
    return isinstance(_example(node), (Tensor, torch.SymInt, torch.SymFloat))


def _memory(value: Any) -> int:
    """Return which memory a tensor has; 0 for anything else."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided:
        return 0
    return int(value.untyped_storage()._cdata)


def _result(tx: Any, proxy: Any, example: Any, same: Mapping[int, Any]) -> Any:
    """Return the variable of a result, whose tensors are items of what a node returns.

    Args:
        tx: The translator.
        proxy: The node.
        example: The result with fake tensors.
        same: What the result has been given, by the identity of its fake tensors.
    """
    if isinstance(example, dict):
        set_example(proxy.node, example)
        items = {key: _result(tx, proxy[key], each, same) for key, each in example.items()}
        return container_variable(tx, items)
    if type(example) in (list, tuple):
        set_example(proxy.node, example)
        found = [_result(tx, proxy[index], each, same) for index, each in enumerate(example)]
        return container_variable(tx, type(example)(found))
    if example is None or isinstance(example, (bool, int, float, str)):
        return ConstantVariable.create(example)
    return graph_variable(tx, same.get(id(example), proxy), example_value=example)
