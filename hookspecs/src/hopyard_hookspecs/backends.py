"""Backends: what a partition of a program is lowered to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias

from ._markers import hookspec, provisional
from ._names import check_kebab
from .types import Reference

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node


Concurrency: TypeAlias = Literal["none", "threads", "processes"]
"""Whether several partitions may be lowered at once, and where."""


@provisional
class Support(NamedTuple):
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
        meta: Anything else the backend wants to travel with the partition: what JSON has, and
            bytes.
        baked: Names of placeholders whose tensors are part of the bytes. Calls still pass them, for
            the reference graph and its gradients; the backend's runtime does not get them.
    """

    original_module: GraphModule
    backend_id: str
    processed_bytes: bytes
    compile_specs: Mapping[str, Any] = field(default_factory=dict)
    named_data: Mapping[str, bytes] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)
    baked: Sequence[str] = ()


@provisional
class BackendImplementation(Protocol):
    """What every backend does. What it may do besides is in the protocols below, by methods that it
    has or has not.

    A placeholder with `meta["state"]`, in what either method is given, is a parameter, or a buffer
    or constant that the program never writes: the entry is its tensor.
    """

    def supports(self, node: Node, /) -> Support:
        """Say whether the backend takes `node`, a `call_function` node with `meta["val"]`."""
        ...

    def lower(self, partition: GraphModule, options: Mapping[str, Any], /) -> Lowered:
        """Lower a partition whose inputs are its placeholders and whose output is a tuple."""
        ...


@provisional
class RunsPartitions(Protocol):
    """A backend that runs here what it lowered. For another, the reference graph runs."""

    def run(self, lowered: Lowered, /, *operands: Any) -> tuple[Any, ...]:
        """Execute a lowered partition."""
        ...


@provisional
class RunsBackward(Protocol):
    """A backend with gradients of its own. For another, those of the reference graph count."""

    def backward(
        self, lowered: Lowered, operands: Sequence[Any], gradients: Sequence[Any], /
    ) -> Sequence[Any]:
        """Return the gradients of the operands, None for one that has none.

        Args:
            lowered: The partition.
            operands: What :meth:`RunsPartitions.run` was called with.
            gradients: The gradients of its outputs, None for one that has none.
        """
        ...


@provisional
class Fingerprinted(Protocol):
    """A backend whose bytes depend on more than partition, options and its plugin's version."""

    def fingerprint(self) -> str:
        """Return what a cache has to tell apart besides, such as a compiler's version."""
        ...


@provisional
@dataclass(frozen=True, slots=True)
class Backend:
    """A named backend.

    Attributes:
        name: Lower-case words joined by hyphens, unique in a session.
        implementation: A callable without arguments that returns a :class:`BackendImplementation`.
        summary: One line for listings.
        bakes_state: Whether bytes depend on the values of parameters, buffers and constants.
        concurrency: Whether `lower` may run in several threads, or in new processes, at once. For
            processes the implementation must be named as text or be importable.
        cacheable: Whether equal partitions may share bytes, so that only one of them is lowered.
            What `lower` returns must then not depend on names of nodes.
        native: Whether bytes are native code; a file with some is loaded only with `trust=True`.
        options: The names of what `lower` takes as options; any other is refused before.
    """

    name: str
    implementation: Reference
    summary: str = ""
    bakes_state: bool = False
    concurrency: Concurrency = "none"
    cacheable: bool = True
    native: bool = False
    options: tuple[str, ...] = ()

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
