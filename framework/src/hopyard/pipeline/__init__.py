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

from ._options import Option as Option
from ._options import options_of as options_of
from ._pipeline import BoundPass as BoundPass
from ._pipeline import Pipeline as Pipeline
from ._pipeline import Step as Step
from ._pipeline import resolve_steps as resolve_steps
from ._runner import PipelineResult as PipelineResult
from ._runner import run as run
