"""From an fx graph to its description."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import SymBool, SymFloat, SymInt, Tensor
from torch.fx import GraphModule, Node
from torch.nn import Parameter

from .._torch.dispatch import OpOverload, is_transformed, untransformed
from .._torch.fake import is_fake, unset_fake_temporarily
from ._description import (
    AtomDescription,
    GraphDescription,
    MappingDescription,
    NodeDescription,
    NodeReference,
    SequenceDescription,
    TensorDescription,
    Value,
)

_LARGEST_SHOWN = 16
_CHUNK = 1 << 20


def describe_graph(graph_module: GraphModule) -> GraphDescription:
    """Return a graph, with the bodies of the regions in it, as plain values.

    Two descriptions are equal if the graphs have the same nodes under the same names with the same
    metadata; :func:`assert_same_graph` compares without the names.
    """
    return _Describer(graph_module).describe()


class _Describer:
    def __init__(self, graph_module: GraphModule) -> None:
        self._graph_module = graph_module
        self._indices = {node: index for index, node in enumerate(graph_module.graph.nodes)}
        self._values = _Values(self._reference)

    def describe(self) -> GraphDescription:
        regions: dict[str, GraphDescription] = {}
        constants: dict[str, str] = {}
        for node in self._graph_module.graph.find_nodes(op="get_attr"):
            target = str(node.target)
            value = operator.attrgetter(target)(self._graph_module)
            if isinstance(value, GraphModule):
                regions[target] = describe_graph(value)
            else:
                constants[target] = _data(value)
        nodes = tuple(self._describe_node(node) for node in self._graph_module.graph.nodes)
        return GraphDescription(nodes, regions, constants)

    def _describe_node(self, node: Node) -> NodeDescription:
        value = tensor_metadata = None
        if "val" in node.meta:
            value = self._values.describe(node.meta["val"])
        if "tensor_meta" in node.meta:
            tensor_metadata = self._values.describe(node.meta["tensor_meta"])
        return NodeDescription(
            node.name,
            node.op,
            "" if node.op in ("placeholder", "output") else _target(node.target),
            self._values.describe(node.args),
            self._values.describe(node.kwargs),
            value,
            tensor_metadata,
        )

    def _reference(self, node: Node) -> NodeReference:
        return NodeReference(self._indices[node])


class _Values:
    """Describes the values of one graph, in which storages are numbered."""

    def __init__(self, reference: Callable[[Node], NodeReference]) -> None:
        self._reference = reference
        self._storages: dict[int, tuple[Any, int]] = {}

    def describe(self, value: Any) -> Value:
        if isinstance(value, Node):
            return self._reference(value)
        if isinstance(value, Tensor):
            if is_transformed(value):
                return self._sequence("transformed", (list(value.shape), untransformed(value)))
            return self._describe_tensor(value)
        if isinstance(value, slice):
            return self._sequence("slice", (value.start, value.stop, value.step))
        if isinstance(value, tuple):
            named = hasattr(value, "_fields")
            return self._sequence(type(value).__name__ if named else "tuple", value)
        if isinstance(value, list):
            return self._sequence("list", value)
        if isinstance(value, Mapping):
            items = {str(key): self.describe(item) for key, item in value.items()}
            return MappingDescription(tuple(sorted(items.items(), key=operator.itemgetter(0))))
        return AtomDescription(type(value).__qualname__, _text(value))

    def _sequence(self, kind: str, items: Any) -> SequenceDescription:
        return SequenceDescription(kind, tuple(self.describe(item) for item in items))

    def _describe_tensor(self, tensor: Tensor) -> TensorDescription:
        strided = tensor.layout == torch.strided
        group, size = self._storage(tensor) if strided else (None, None)
        return TensorDescription(
            shape=tuple(_number(length) for length in tensor.shape),
            stride=tuple(_number(step) for step in tensor.stride()) if strided else None,
            dtype=_short(tensor.dtype),
            device=str(tensor.device),
            layout=_short(tensor.layout),
            storage_offset=_number(tensor.storage_offset()) if strided else None,
            storage_bytes=size,
            requires_grad=tensor.requires_grad,
            alias_group=group,
        )

    def _storage(self, tensor: Tensor) -> tuple[int, int | str]:
        storage = tensor.untyped_storage()
        # The storage is kept with its number, so that its id is not given to another one.
        _, group = self._storages.setdefault(id(storage), (storage, len(self._storages)))
        return group, _number(storage.nbytes())


def _number(number: Any) -> int | str:
    return str(number) if isinstance(number, (SymBool, SymFloat, SymInt)) else int(number)


def _text(value: object) -> str:
    """Write what tells `value` from others of its type; an address in memory does not."""
    if hasattr(value, "__fx_repr__"):
        return str(value.__fx_repr__()[0])
    kind = type(value)
    plain = kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__
    return "" if plain else str(value)


def _short(value: object) -> str:
    return str(value).removeprefix("torch.")


def _target(target: Any) -> str:
    name = getattr(target, "__qualname__", None)
    if name is None or isinstance(target, OpOverload):
        return str(target)
    return f"{target.__module__}.{name}"


def _data(value: Any) -> str:
    """Write what a constant holds, so that another constant reads differently."""
    if not isinstance(value, Tensor):
        return type(value).__qualname__
    if is_transformed(value):
        return f"transformed {_data(untransformed(value))}"
    if is_fake(value) or value.layout != torch.strided or value.is_meta:
        return "no data"
    if hasattr(value, "__tensor_flatten__"):
        return ", ".join(f"{name}: {_data(getattr(value, name))}" for name in _inner_names(value))
    if type(value) not in (Tensor, Parameter):
        return str(value)
    with unset_fake_temporarily(), torch.no_grad():
        numbers = value.detach().resolve_conj().resolve_neg()
        shown = str(numbers.flatten()[:_LARGEST_SHOWN].tolist())
        return shown if numbers.numel() <= _LARGEST_SHOWN else f"{shown} {_digest(numbers)}"


def _inner_names(value: Any) -> list[str]:
    names: list[str] = value.__tensor_flatten__()[0]
    return names


def _digest(tensor: Tensor) -> str:
    digest = hashlib.sha256()
    for chunk in torch.split(tensor.contiguous().flatten().view(torch.uint8), _CHUNK):
        digest.update(bytes(chunk.tolist()))
    return digest.hexdigest()
