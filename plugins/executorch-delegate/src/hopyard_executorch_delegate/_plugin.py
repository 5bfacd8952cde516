"""What `hopyard-executorch-delegate` registers with Hopyard."""

from __future__ import annotations

from hopyard_hookspecs import hookimpl as hookimpl
