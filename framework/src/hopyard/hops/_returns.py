"""What a call returns, in the form that every file has a place for, and back.

A graph returns tensors and symbolic numbers: one, or a tuple of them. What a body returns them in,
lists, mappings and constants, is put around them by whoever calls it. An eager definition of the
author's wants to see that too, so that a node says in its arguments what it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import SymBool, SymFloat, SymInt, Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.immutable_collections import immutable_dict, immutable_list

from .._torch.pytree import TreeSpec, tree_flatten, tree_unflatten
from ..errors import UnsupportedError
from ..tracing import ATOMS, is_object

if TYPE_CHECKING:
    from ._operator import Operator

KEYWORD = "hopyard_returns"
"""The argument of a node that tells what its body and the call itself return, if it has to."""

Template: TypeAlias = int | Mapping[str, Any]
"""A value that JSON can hold: the place of an item, a constant, or a container of templates."""

_CARRIED = (Tensor, SymInt, SymFloat, SymBool)
_NOTHING = (None,)
"""What stands for nothing in a graph: torch's files have no empty tuples."""

_CONSTANTS = (type(None), bool, int, float, str)


@dataclass(frozen=True, slots=True)
class Packed:
    """A returned value as a graph returns it.

    Attributes:
        value: The value: a tensor or a tuple.
        restore: Puts what a graph returned into the containers again; None if it is in none.
        template: What `restore` does, as a node can say it; None if it does not say it.
    """

    value: Any
    restore: Callable[[Any], Any] | None = None
    template: Template | None = None


def pack(operator: Operator, value: Any) -> Packed:
    """Return what a body, or a call, returned as a graph returns it.

    Raises:
        UnsupportedError: A graph cannot return it, or a file that will be made of it cannot.
    """
    if _is_plain(value):
        return Packed(value)
    leaves, spec = tree_flatten(value)
    if any(is_object(leaf) for leaf in leaves):
        # Where they come from is theirs to say.
        return Packed(value)
    for leaf in leaves:
        if not isinstance(leaf, _CARRIED) and type(leaf) not in ATOMS:
            raise _refusal(operator, f"a {type(leaf).__qualname__}")
        if isinstance(leaf, SymBool) and torch.compiler.is_exporting():
            raise _refusal(operator, "a truth value that only a run tells, which no file holds")
    carried = [leaf for leaf in leaves if isinstance(leaf, _CARRIED)]
    bundle = tuple(carried) or _NOTHING
    if operator.runs_its_body:
        return Packed(bundle, partial(_filled, leaves, spec))
    template = _described(operator, value, iter(range(len(carried))))
    return Packed(bundle, partial(_restored, template), template)


def pack_for(node: Node, operator: Operator, result: Any, body: Packed | None = None) -> Any:
    """Return what a call returned as its node does, and let the node say what that is.

    Args:
        node: The call.
        operator: The operator.
        result: What the call returned.
        body: What its body returned, if it has one.
    """
    packed = pack(operator, result)
    templates = {"body": body and body.template, "result": packed.template}
    told = {name: template for name, template in templates.items() if template is not None}
    if told:
        node.update_kwarg(KEYWORD, json.dumps(told))
    return packed.value


def call_as_recorded(
    operator: Operator, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, eager: bool
) -> Any:
    """Call an operator as a node with a :data:`KEYWORD` does: what it returns is packed."""
    config = dict(kwargs)
    templates = _templates(config.pop(KEYWORD))
    if "body" in templates:
        body, *operands = args
        restore = partial(_restored, templates["body"])
        args = (restoring(body, restore) if eager else _restored_graph(body, restore), *operands)
    result = operator(*args, **config)
    if "result" not in templates:
        return result
    # By the template, since a number that was symbolic then may be a constant now.
    return tuple(_carried(templates["result"], result)) or _NOTHING


def restoring(body: Callable[..., Any], restore: Callable[[Any], Any] | None) -> Callable[..., Any]:
    """Return a body that returns what the given one does in its containers."""
    return body if restore is None else lambda *operands: restore(body(*operands))


def _restored_graph(body: Callable[..., Any], restore: Callable[[Any], Any]) -> Callable[..., Any]:
    # A tracer asks a graph where its nodes come from.
    if not isinstance(body, GraphModule):
        return restoring(body, restore)
    graph = Graph()
    graph.output(restore(graph.graph_copy(body.graph, {})))
    return GraphModule(body, graph)


def _is_plain(value: Any) -> bool:
    if isinstance(value, Tensor):
        return True
    if type(value) is not tuple or not value:
        return False
    return all(isinstance(item, (Tensor, SymInt, SymFloat)) or type(item) is int for item in value)


def _refusal(operator: Operator, what: str) -> UnsupportedError:
    return operator.refusal(
        f"returns {what}", "return tensors and numbers, in tuples, lists and dictionaries"
    )


def _filled(leaves: Sequence[Any], spec: TreeSpec, bundle: Any) -> Any:
    items = iter(bundle)
    filled = [next(items) if isinstance(leaf, _CARRIED) else leaf for leaf in leaves]
    return tree_unflatten(filled, spec)


def _described(operator: Operator, value: Any, places: Iterator[int]) -> Template:
    """Return the template of a value; what it carries has the next places."""
    if isinstance(value, _CARRIED):
        return next(places)
    if type(value) in _CONSTANTS:
        return {"constant": value}
    if type(value) is tuple:
        return {"tuple": [_described(operator, item, places) for item in value]}
    # Interpreters of graphs return lists and mappings of fx's own.
    if type(value) in (list, immutable_list):
        return {"list": [_described(operator, item, places) for item in value]}
    if type(value) in (dict, immutable_dict) and all(type(key) is str for key in value):
        items = {key: _described(operator, item, places) for key, item in value.items()}
        return {"dict": items}
    raise _refusal(operator, f"a {type(value).__qualname__} that a node cannot describe")


def _restored(template: Template, bundle: Any) -> Any:
    if isinstance(template, int):
        return bundle[template]
    ((kind, content),) = template.items()
    if kind == "constant":
        return content
    if kind == "dict":
        return {key: _restored(item, bundle) for key, item in content.items()}
    items = [_restored(item, bundle) for item in content]
    return tuple(items) if kind == "tuple" else items


def _carried(template: Template, value: Any) -> list[Any]:
    if isinstance(template, int):
        return [value]
    ((kind, content),) = template.items()
    if kind == "constant":
        return []
    keys = content if kind == "dict" else range(len(content))
    return [item for key in keys for item in _carried(content[key], value[key])]


@lru_cache(maxsize=1024)
def _templates(told: str) -> Mapping[str, Template]:
    templates: Mapping[str, Template] = json.loads(told)
    return templates
