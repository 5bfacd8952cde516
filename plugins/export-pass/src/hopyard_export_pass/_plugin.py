"""What `hopyard-export-pass` registers with Hopyard. Importing it does not import torch."""

from __future__ import annotations

from collections.abc import Iterator

from hopyard_hookspecs import Pass, hookimpl


@hookimpl
def hopyard_register_passes() -> Iterator[Pass]:
    """Register the passes, by references that are imported when a pipeline uses them."""
    yield Pass(
        "decompose",
        "hopyard_export_pass._decompose:Decompose",
        summary="Replace operators by what they decompose into.",
    )
    yield Pass(
        "dce",
        "hopyard_export_pass._dead_code:EliminateDeadCode",
        summary="Remove what nothing uses and what has no effect.",
    )
    yield Pass(
        "remove-no-ops",
        "hopyard_export_pass._no_ops:RemoveNoOps",
        summary="Remove operators that return their operand as it is.",
    )
    yield Pass(
        "cse",
        "hopyard_export_pass._cse:EliminateCommonSubexpressions",
        summary="Compute once what is computed twice.",
    )
    yield Pass(
        "fold-constants",
        "hopyard_export_pass._constants:FoldConstants",
        summary="Compute what depends on constants alone.",
        kind="program",
    )
    yield Pass(
        "fold-conv-bn",
        "hopyard_export_pass._conv_bn:FoldConvolutionBatchNorm",
        summary="Make batch normalizations part of convolutions.",
        kind="program",
    )
    yield Pass(
        "functionalize",
        "hopyard_export_pass._functionalize:Functionalize",
        summary="Let the graph return new values instead of writing.",
        kind="program",
    )
    yield Pass(
        "fuse-linear-activation",
        "hopyard_export_pass._linear_activation:FuseLinearActivation",
        summary="Let a linear layer with relu be one operator.",
    )
