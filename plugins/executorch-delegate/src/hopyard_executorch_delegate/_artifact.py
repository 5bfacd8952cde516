"""Lowered partitions in files of programs."""

from __future__ import annotations

from torch.fx import GraphModule

from hopyard import Session
from hopyard.errors import ArtifactError
from hopyard_hookspecs import Lowered

from ._lowered_module import LoweredModule
from ._values import Content, UnstorableError, pack, unpack


def packed(module: LoweredModule) -> bytes:
    """Return a lowered partition as bytes, without its graph.

    Raises:
        ArtifactError: Its backend left something in it that has no form in a file.
    """
    lowered = module.lowered
    content = Content(
        lowered.backend_id,
        lowered.processed_bytes,
        lowered.compile_specs,
        lowered.named_data,
        lowered.meta,
        module.baked.digests,
    )
    try:
        return pack(content)
    except UnstorableError as error:
        raise ArtifactError(
            f"{module.name} of the backend {lowered.backend_id!r} holds {error}, which no file can",
            hint="save the program as it was before it was delegated",
            stage="save",
        ) from error


def restore(
    graph_module: GraphModule, content: bytes, session: Session, trust: bool
) -> LoweredModule:
    """Return the lowered partition of a graph and of what :func:`packed` returned.

    Raises:
        ArtifactError: The bytes are damaged, or native code that is not trusted.
        UnknownNameError: There is no such backend.
    """
    found = unpack(content)
    registered = session.lookup("backend", found.backend_id, session.backends)
    if registered.value.native and not trust:
        raise ArtifactError(
            f"the file holds native code of the backend {found.backend_id!r}, "
            "which is accepted with trust=True only",
            hint="do not load it so unless you trust its author",
            plugin=registered.provider,
            stage="load",
        )
    names = [node.name for node in graph_module.graph.find_nodes(op="placeholder")]
    lowered = Lowered(
        graph_module,
        found.backend_id,
        found.processed_bytes,
        found.compile_specs,
        found.named_data,
        found.meta,
        tuple(names[position] for position in found.baked),
    )
    implementation = session.backend(found.backend_id)
    return LoweredModule(lowered, implementation, name="a loaded partition", baked=found.baked)
