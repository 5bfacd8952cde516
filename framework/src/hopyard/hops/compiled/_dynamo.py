"""How Dynamo reads a call: as one node whose first operand is the body as a graph.

Dynamo looks up, by an operator's name, a variable that reads its calls. torch's own for such
operators hands over what the body uses, in the order of use, and takes what the body returns for
the result. Ours keeps every operand in its place, puts what the body captures after them, and asks
the definition for the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.fx import GraphModule, Node

from ..._torch.compiler import GraphBreak, UncapturedCall, UserError
from ..._torch.dynamo import (
    CONTAINER_VARIABLES,
    ConstantVariable,
    GuardBuilder,
    NumberVariable,
    OperatorVariable,
    OverridingVariable,
    container_variable,
    fake_result,
    graph_variable,
    install_guard,
    operator_variables,
    read_attribute,
    realized,
    set_example,
)
from ..._torch.pytree import tree_leaves
from ...errors import UnsupportedError
from ...tracing import nest_inputs
from .._operator import Operator
from .._provider import provider_of
from ._bodies import TracedBody, example_of, leaves_of, trace
from ._refusals import line_of, line_of_node, reason_of

_DEPTH = 16
"""How many regions may lie in each other; a body that calls itself knows no end."""


class CompileRefusal(UncapturedCall, UnsupportedError):
    """A call that a compiler cannot keep as one node; both torch's error and ours.

    Args:
        operator: The operator.
        what: What its call does.
        hint: What to do about it.
        stack: The frames of the program that Dynamo was reading.
        node: The node of the body that did it.
    """

    def __init__(
        self, operator: Operator, what: str, hint: str, *, stack: Any = None, node: Any = None
    ) -> None:
        self.what = what
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
            if any(isinstance(leaf, OverridingVariable) for leaf in leaves_of(args)):
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
        return _result(tx, proxy, fake_result(proxy.node, tx))

    def _given(self, index: int, operand: Any) -> Any:
        """Return an operand as the graph holds it."""
        for leaf in leaves_of(operand):
            if not (leaf.is_python_constant() or leaf.maybe_fx_node() is not None):
                raise self.refusal(
                    f"has a {leaf.python_type().__name__} as operand {index}, which a graph "
                    "cannot hold",
                    "pass tensors and plain values, and let the body close over the rest",
                )
        return operand.as_proxy()

    def _settled(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the configuration as plain values; the compiled code is for these alone."""
        return {name: self._plain(name, variable) for name, variable in config.items()}

    def _plain(self, name: str, variable: Any) -> Any:
        if isinstance(variable, NumberVariable):
            return variable.evaluate_expr()
        if variable.is_python_constant():
            return variable.as_python_constant()
        if not isinstance(variable, CONTAINER_VARIABLES):
            raise self.refusal(
                f"has a {variable.python_type().__name__} in its configuration {name!r}",
                "pass tensors as operands; configuration is plain values",
            )
        if not isinstance(variable.items, dict):
            items = [self._plain(name, item) for item in variable.items]
            return variable.python_type()(items)
        if variable.source is not None:
            # What is added later is to be seen.
            variable.install_dict_keys_match_guard()
        pairs = variable.items.items()
        return {key.vt.as_python_constant(): self._plain(name, item) for key, item in pairs}

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
        traced = trace(tx, operator, body, operands, self.refusal)
        self._refuse_captures(traced)
        if not operator.definition.writes:
            traced.refuse_writes(self.refusal)
        if operator.runs_its_body:
            traced.return_fresh()
        else:
            traced.return_nested()
        graph_module = GraphModule(dict(tx.output.nn_modules), traced.graph)
        if any(isinstance(each, (list, tuple, dict)) for each in given):
            nest_inputs(graph_module, given)
        name = tx.output.install_subgraph(f"{operator.name()}_body", graph_module)
        operands = [*given, *traced.captured]
        call = tx.output.create_proxy(
            "call_function", operator, (read_attribute(tx, name), *operands), config
        )
        inputs = dict(zip(traced.placeholders, tree_leaves(operands), strict=True))
        if operator.runs_its_body:
            example: Any = list(map(example_of, traced.fresh))
        else:
            # The body has run before, and made the symbols of values that only a run tells.
            with tx.fake_mode.shape_env.ignore_fresh_unbacked_symbols():
                example = fake_result(call.node, tx)
        if not operator.definition.writes:
            traced.refuse_sharing(example, self.refusal)
        if operator.runs_its_body:
            return traced.result_of(tx, call, inputs)
        return _result(tx, call, example)

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

    def _refuse_captures(self, traced: TracedBody) -> None:
        if not traced.captured or self.value.takes_captured:
            return
        raise self.refusal(
            f"takes {traced.names[-len(traced.captured)]}, which would become a further operand, "
            "and the operator takes operands of a fixed number",
            "pass it as an operand, or define the operator as (body, *operands, **config)",
        )


def register(operator: Operator) -> None:
    """Let Dynamo read the calls of an operator."""
    region = operator.definition.kind == "region"
    operator_variables[operator.name()] = RegionVariable if region else CallVariable


def _result(tx: Any, proxy: Any, example: Any) -> Any:
    """Return the variable of a result, whose tensors are items of what a node returns.

    Args:
        tx: The translator.
        proxy: The node.
        example: The result with fake tensors.
    """
    if isinstance(example, dict):
        set_example(proxy.node, example)
        items = {key: _result(tx, proxy[key], each) for key, each in example.items()}
        return container_variable(tx, items)
    if type(example) in (list, tuple):
        set_example(proxy.node, example)
        found = [_result(tx, proxy[index], each) for index, each in enumerate(example)]
        return container_variable(tx, type(example)(found))
    if example is None or isinstance(example, (bool, int, float, str)):
        return ConstantVariable.create(example)
    return graph_variable(tx, proxy, example_value=example)
