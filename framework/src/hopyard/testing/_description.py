"""A graph as plain values, which can be compared and read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias, Union

Value: TypeAlias = Union[
    "NodeReference",
    "TensorDescription",
    "SequenceDescription",
    "MappingDescription",
    "AtomDescription",
]
"""An argument of a node, or what metadata says of a node's value."""


@dataclass(frozen=True, slots=True)
class NodeReference:
    """A use of another node, by its position in the graph."""

    index: int

    def __str__(self) -> str:
        return f"%{self.index}"


@dataclass(frozen=True, slots=True)
class TensorDescription:
    """Everything of a tensor but its data.

    Attributes:
        shape: Its sizes; symbolic ones as text.
        stride: Its strides, or None if its layout has none.
        dtype: Its data type, for example `"float32"`.
        device: Its device, for example `"cpu"`.
        layout: Its layout, for example `"strided"`.
        storage_offset: Where in its storage it begins.
        storage_bytes: Size of its storage, or None if it has none.
        requires_grad: Whether it does.
        alias_group: The number of its storage in the graph; tensors with one number are aliases.
    """

    shape: tuple[int | str, ...]
    stride: tuple[int | str, ...] | None
    dtype: str
    device: str
    layout: str
    storage_offset: int | str | None
    storage_bytes: int | str | None
    requires_grad: bool
    alias_group: int | None

    def __str__(self) -> str:
        parts = [f"{self.dtype}{list(self.shape)} {self.device}"]
        if self.layout != "strided":
            parts.append(self.layout)
        if self.stride is not None:
            parts.append(f"stride {self.stride} offset {self.storage_offset}")
        if self.alias_group is not None:
            parts.append(f"storage {self.alias_group} of {self.storage_bytes} bytes")
        if self.requires_grad:
            parts.append("requires grad")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class SequenceDescription:
    """A list, tuple or slice."""

    kind: str
    items: tuple[Value, ...]

    def __str__(self) -> str:
        inside = ", ".join(map(str, self.items))
        if self.kind == "list":
            return f"[{inside}]"
        return f"({inside})" if self.kind == "tuple" else f"{self.kind}({inside})"


@dataclass(frozen=True, slots=True)
class MappingDescription:
    """A dictionary; the order of its keys does not count."""

    items: tuple[tuple[str, Value], ...]

    def __str__(self) -> str:
        return "{" + ", ".join(f"{key}: {value}" for key, value in self.items) + "}"


@dataclass(frozen=True, slots=True)
class AtomDescription:
    """Any other value. Its type counts: 1, 1.0 and True are three values."""

    type: str
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class NodeDescription:
    """One node.

    Attributes:
        name: What it is called; two graphs may be the same with other names.
        operation: fx's word for what it is, for example `"call_function"`.
        target: What it calls or reads; empty for inputs.
        arguments: Its positional arguments.
        keywords: Its keyword arguments.
        value: What `meta["val"]` says, or None if there is no such entry.
        tensor_metadata: What `meta["tensor_meta"]` says, or None if there is no such entry.
    """

    name: str
    operation: str
    target: str
    arguments: Value
    keywords: Value
    value: Value | None
    tensor_metadata: Value | None

    def __str__(self) -> str:
        words = [self.operation, self.target, str(self.arguments), str(self.keywords)]
        call = " ".join(word for word in words if word not in ("", "()", "{}"))
        return call if self.value is None else f"{call}: {self.value}"


@dataclass(frozen=True, slots=True)
class GraphDescription:
    """A graph and the bodies of the regions in it.

    Attributes:
        nodes: In the order of the graph.
        regions: Graph modules that the graph reads, by attribute.
        constants: Other attributes that the graph reads, each with its data as text.
    """

    nodes: tuple[NodeDescription, ...]
    regions: Mapping[str, GraphDescription]
    constants: Mapping[str, str]

    def __str__(self) -> str:
        return "\n".join(self._lines(""))

    def _lines(self, indent: str) -> Iterator[str]:
        for index, node in enumerate(self.nodes):
            yield f"{indent}%{index} {node.name} = {node}"
        for name, region in self.regions.items():
            yield f"{indent}{name}:"
            yield from region._lines(indent + "    ")
