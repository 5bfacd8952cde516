"""Backends: what a partition of a program is lowered to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ._markers import hookspec, provisional
from ._names import check_kebab
from .types import Reference

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node


@provisional
@dataclass(frozen=True, slots=True)
class Support:
    """Whether a backend takes a node, and why not."""

    supported: bool
    reason: str = ""


@provisional
@dataclass(frozen=True, slots=True)
class Lowered:
    """A partition in a backend's own form.

    Attributes:
        original_module: The reference graph, which defines what the lowered bytes must compute.
        backend_id: The backend's name.
        processed_bytes: What the backend's runtime reads.
        compile_specs: Options the partition was lowered with.
        named_data: Blobs shared between partitions, by name.
        meta: Anything else the backend wants to travel with the partition.
    """

    original_module: GraphModule
    backend_id: str
    processed_bytes: bytes
    compile_specs: Mapping[str, Any] = field(default_factory=dict)
    named_data: Mapping[str, bytes] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)


@provisional
class BackendImplementation(Protocol):
    """What a backend does."""

    def supports(self, node: Node, /) -> Support:
        """Say whether the backend takes `node`, a `call_function` node with `meta["val"]`."""
        ...

    def lower(self, partition: GraphModule, options: Mapping[str, Any], /) -> Lowered:
        """Lower a partition whose inputs are its placeholders and whose output is a tuple."""
        ...

    def run(self, lowered: Lowered, /, *operands: Any) -> tuple[Any, ...]:
        """Execute a lowered partition."""
        ...


@provisional
@dataclass(frozen=True, slots=True)
class Backend:
    """A named backend.

    Attributes:
        name: Lower-case words joined by hyphens, unique in a session.
        implementation: A callable without arguments that returns a :class:`BackendImplementation`.
        summary: One line for listings.
    """

    name: str
    implementation: Reference
    summary: str = ""

    def __post_init__(self) -> None:
        check_kebab("backend", self.name)


@provisional
@hookspec
def hopyard_register_backends() -> Iterable[Backend]:  # type: ignore[empty-body]
    """Yield the backends that partitions may be lowered to; called once when a session is made.

    Example:
        .. code-block:: python

            @hookimpl
            def hopyard_register_backends():
                yield Backend("my-chip", implementation="my_plugin.chip:MyChip")

    .. versionadded:: 0.1
    """
