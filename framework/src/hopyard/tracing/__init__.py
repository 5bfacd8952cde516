"""The tracer: runs a program once and records its operators as a graph.

::

    make_fx ─┐
             ├─ Tracer ── TracingMode ── Recorder ── TensorSlots
    capture ─┘   one        sees every     builds      which node stands
                 capture    operator       the graph   for which tensor
"""

from __future__ import annotations

from ._inputs import fake_mode_for as fake_mode_for
from ._inputs import fakify as fakify
from ._locations import StackTraces as StackTraces
from ._locations import current_location as current_location
from ._locations import node_location as node_location
from ._locations import raising_location as raising_location
from ._make_fx import TRACING_MODES as TRACING_MODES
from ._make_fx import make_fx as make_fx
from ._mode import DecompositionTable as DecompositionTable
from ._mode import TracingMode as TracingMode
from ._recorder import Recorder as Recorder
from ._regions import Region as Region
from ._regions import drop_unused_attributes as drop_unused_attributes
from ._regions import lift_captured as lift_captured
from ._techniques import Techniques as Techniques
from ._tracer import Placeholder as Placeholder
from ._tracer import Tracer as Tracer
from ._tracer import TraceRuleFunction as TraceRuleFunction
from ._tracer import TracingOptions as TracingOptions
from ._tracer import refuse_lost_gradient as refuse_lost_gradient
from ._tracer import suspended as suspended
from ._values import ValueRecorder as ValueRecorder
