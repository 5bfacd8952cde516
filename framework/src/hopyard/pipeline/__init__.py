"""Pipelines of passes: read from text, checked against what is registered, run and verified.

::

    from hopyard import Pipeline, Session

    session = Session()
    program = session.capture(model, (x,))
    result = session.run(Pipeline.parse("fold-scale{factor=10}"), program)
    result.program(x)

Importing this package leaves torch unloaded; running a pipeline loads it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ._binding import BoundGroup as BoundGroup
from ._binding import BoundPass as BoundPass
from ._binding import resolve_steps as resolve_steps
from ._dumps import GraphDumps as GraphDumps
from ._items import Item as Item
from ._items import Regions as Regions
from ._items import Repeat as Repeat
from ._items import Step as Step
from ._options import Option as Option
from ._options import options_of as options_of
from ._pipeline import Pipeline as Pipeline
from ._report import report as report
from ._runner import PipelineResult as PipelineResult
from ._runner import run as run

if TYPE_CHECKING:
    from ._listing import graph_diff as graph_diff
    from ._listing import listing as listing
    from ._origin import derive_metadata as derive_metadata
    from ._origin import origin_of as origin_of

_NEED_TORCH = {
    "derive_metadata": "_origin",
    "graph_diff": "_listing",
    "listing": "_listing",
    "origin_of": "_origin",
}


def __getattr__(name: str) -> object:
    home = _NEED_TORCH.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{home}", __name__), name)
