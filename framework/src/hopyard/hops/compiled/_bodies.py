"""Bodies as Dynamo traces them: a graph, what it takes, and what the body puts its results in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node, Proxy

from ..._torch.compiler import settings
from ..._torch.dispatch import is_transformed
from ..._torch.dynamo import (
    CONTAINER_VARIABLES,
    NAMED_TUPLE_VARIABLE,
    Variable,
    container_variable,
    graph_variable,
    realized,
    set_example,
    trace_body,
)
from ..._torch.pytree import tree_leaves

Refuse = Callable[..., Exception]
"""Returns the error for what a call does, what to do about it, and the node that did it."""


@dataclass
class TracedBody:
    """A body that Dynamo has traced.

    Attributes:
        graph: Returns the tensors and numbers that the body returned, in a tuple.
        captured: What the enclosing graph gives it after the operands.
        placeholders: The inputs.
        names: What to call them.
        returned: The variable of what the body returned.
        carried: The nodes that the graph returns.
    """

    graph: Graph
    captured: Sequence[Proxy]
    returned: Any
    placeholders: Sequence[Node] = field(init=False)
    names: Sequence[str] = field(init=False)
    carried: Sequence[Node] = field(init=False)

    def __post_init__(self) -> None:
        self.placeholders = self.graph.find_nodes(op="placeholder")
        count = len(self.placeholders) - len(self.captured)
        names = [f"operand {index}" for index in range(count)]
        self.names = names + [f"the captured {each.name!r}" for each in self.placeholders[count:]]
        self.carried = list(self.graph.output_node().args[0])  # type: ignore[arg-type]

    def return_nested(self) -> None:
        """Let the graph return what the body returned, in its containers."""
        self.graph.output_node().args = (_filled(self.returned, iter(self.carried)),)

    def return_fresh(self) -> None:
        """Let the graph return, in a tuple or alone, what the body has made.

        What a body returns as it was given its caller has already. Whoever writes to that writes to
        the input, and a compiler wants to know it as the input.
        """
        fresh = self.fresh
        alone = _contents(self.returned) is self.returned and len(fresh) == 1
        self.graph.output_node().args = (fresh[0] if alone else tuple(fresh),)

    def result_of(self, tx: Any, call: Proxy, inputs: Mapping[Node, Any]) -> Any:
        """Return the variable of what a call returns that does nothing but run the body.

        Args:
            tx: The translator.
            call: The call.
            inputs: What each input is in the enclosing graph.
        """
        outputs = self.graph.output_node().args[0]
        places = dict(inputs)
        if isinstance(outputs, Node):
            return graph_variable(tx, call, example_value=example_of(outputs))
        set_example(call.node, tuple(map(example_of, self.fresh)))
        for index, node in enumerate(self.fresh):
            item = call[index]  # type: ignore[index]
            places[node] = graph_variable(tx, item, example_value=example_of(node)).as_proxy()
        leaves = [leaf for leaf in leaves_of(self.returned) if not leaf.is_python_constant()]
        for leaf, node in zip(leaves, self.carried, strict=True):
            # Dynamo goes on with the body's own variables, which now stand for items of the call.
            leaf.proxy = places[node]
        return self.returned

    @property
    def fresh(self) -> list[Node]:
        """What the body has made and returned; twice or not."""
        return [node for node in dict.fromkeys(self.carried) if node.op != "placeholder"]

    def refuse_sharing(self, result: Any, refuse: Refuse) -> None:
        """Refuse a result of which a graph without views could not tell where its memory is from.

        Args:
            result: The result with fake tensors.
            refuse: Makes the error.
        """
        examples = [example_of(node) for node in self.placeholders]
        given = {id(example) for example in examples}
        memory: dict[int, str] = {}
        for name, example in zip(self.names, examples, strict=True):
            memory.setdefault(_memory(example), name)
        leaves = tree_leaves(result)
        for index, leaf in enumerate(leaves):
            storage = _memory(leaf)
            if storage == 0 or id(leaf) in given:
                continue
            if storage in memory:
                raise refuse(
                    f"returns output {index} in the memory of {memory[storage]}",
                    "return a clone of it",
                    self.fresh[index] if len(self.fresh) == len(leaves) else None,
                )
            memory[storage] = f"output {index}"

    def refuse_writes(self, refuse: Refuse) -> None:
        """Refuse a body that changes an input in place."""
        for index in getattr(self.graph, "_dynamo_mutated_input_indices", ()):
            raise refuse(
                f"changes {self.names[index]} in place",
                "return the new value instead, or clone it first",
                _writer(self.placeholders[index]),
            )


def trace(tx: Any, operator: Any, body: Any, operands: Sequence[Any], refuse: Refuse) -> TracedBody:
    """Let Dynamo trace a body, with an input for each operand and for what it captures after them.

    Raises:
        Exception: What `refuse` returns, if the body returns what a graph cannot carry.
    """
    watched = _Watched(body, refuse)
    # An export would leave out a print, and let the rest of the body pass.
    with settings.patch(reorderable_logging_functions=set()):
        (_, _), graph, captured = trace_body(
            tx,
            watched,
            list(operands),
            {},
            operator.name(),
            source_target=operator,
            set_subgraph_inputs="flatten_manual",
        )
    return TracedBody(graph, list(captured), watched.returned)


class _Watched(Variable):
    """A body that hands over its tensors and numbers, and keeps what they were returned in."""

    def __init__(self, body: Any, refuse: Refuse) -> None:
        super().__init__()
        self._body = body
        self._refuse = refuse
        self.returned: Any = None

    def call_function(self, tx: Any, args: Any, kwargs: Any) -> Any:
        """Run the body."""
        self.returned = realized(self._body.call_function(tx, args, kwargs))
        carried = [leaf for leaf in leaves_of(self.returned) if not leaf.is_python_constant()]
        for leaf in carried:
            if leaf.maybe_fx_node() is None:
                raise self._refuse(
                    f"returns a {leaf.python_type().__name__}",
                    "return tensors and numbers, in tuples, lists and dictionaries",
                )
        return container_variable(tx, tuple(carried))


def leaves_of(variable: Any) -> Iterator[Any]:
    """Yield the variables in containers of variables."""
    contents = _contents(variable)
    if isinstance(contents, dict):
        contents = list(contents.values())
    if not isinstance(contents, (list, tuple)):
        yield contents
        return
    for item in contents:
        yield from leaves_of(item)


def example_of(node: Node) -> Any:
    """Return what a node stands for, with fake tensors."""
    return node.meta.get("example_value")


def _contents(variable: Any) -> Any:
    """Return what is in the variable of a container; any other variable itself."""
    if isinstance(variable, NAMED_TUPLE_VARIABLE):
        variable = variable._base_vt
    return variable.items if isinstance(variable, CONTAINER_VARIABLES) else variable


def _filled(variable: Any, nodes: Iterator[Node]) -> Any:
    """Return what a variable stands for, with nodes for tensors and numbers."""
    if variable.is_python_constant():
        return variable.as_python_constant()
    contents = _contents(variable)
    if contents is variable:
        return next(nodes)
    if isinstance(contents, dict):
        return {key.vt.as_python_constant(): _filled(item, nodes) for key, item in contents.items()}
    return variable.python_type()(_filled(item, nodes) for item in contents)


def _writer(node: Node) -> Node | None:
    """Return the first node that may write to what a node stands for."""
    memory = _memory(example_of(node))
    pending = list(node.users)
    for user in pending:
        name = user.target if isinstance(user.target, str) else user.target.__name__
        if name == "setitem" or "out" in user.kwargs or (name[-1] == "_" and name[-2:] != "__"):
            return user
        pending += [each for each in user.users if _memory(example_of(each)) == memory]
    return None


def _memory(value: Any) -> int:
    """Return which memory a tensor has; 0 for anything else."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided:
        return 0
    if is_transformed(value):
        # vmap and grad hide what they wrap.
        return 0
    return int(value.untyped_storage()._cdata)
