"""What `hopyard-executorch-delegate` registers with Hopyard."""

from __future__ import annotations

from collections.abc import Iterator

from hopyard_hookspecs import Backend, Hop, Pass, hookimpl

from ._hop import CALL_DELEGATE


@hookimpl
def hopyard_register_hops() -> Iterator[Hop]:
    """Register the operator that runs a lowered partition."""
    yield CALL_DELEGATE


@hookimpl
def hopyard_register_backends() -> Iterator[Backend]:
    """Register the backend that runs everywhere, and ExecuTorch's."""
    yield Backend(
        "reference",
        implementation="hopyard_executorch_delegate:ReferenceBackend",
        summary="Run a serialised graph with PyTorch's own operators.",
    )
    yield Backend(
        "xnnpack",
        implementation="hopyard_executorch_delegate:XnnpackBackend",
        summary="Lower for ExecuTorch's XNNPACK delegate (needs executorch).",
        bakes_state=True,
        concurrency="processes",
    )


@hookimpl
def hopyard_register_passes() -> Iterator[Pass]:
    """Register the pass that hands partitions to backends, and the one that takes them back."""
    yield Pass(
        "delegate",
        implementation="hopyard_executorch_delegate:Delegate",
        summary="Replace what a backend supports by calls of lowered partitions.",
        kind="program",
    )
    yield Pass(
        "undelegate",
        implementation="hopyard_executorch_delegate:Undelegate",
        summary="Replace lowered partitions by the operators that they stand for.",
        kind="program",
    )
