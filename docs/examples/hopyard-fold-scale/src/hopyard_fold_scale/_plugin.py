"""What this distribution registers with Hopyard."""

from __future__ import annotations

from collections.abc import Iterator

from hopyard_hookspecs import Pass, hookimpl

FOLD_SCALE = Pass(
    "fold-scale",
    implementation="hopyard_fold_scale.passes:FoldScale",
    summary="Fold chains of multiplications by constants.",
)


@hookimpl
def hopyard_register_passes() -> Iterator[Pass]:
    """Register the pass; naming it as text keeps torch unloaded until a pipeline runs it."""
    yield FOLD_SCALE
