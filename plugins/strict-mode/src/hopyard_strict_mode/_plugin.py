"""What the plugin registers. Importing it does not import torch."""

from __future__ import annotations

from collections.abc import Iterator

from hopyard_hookspecs import Hop, hookimpl

from ._region import REGION


@hookimpl
def hopyard_register_hops() -> Iterator[Hop]:
    """Register the region operator."""
    yield REGION
