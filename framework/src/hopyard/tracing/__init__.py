"""The tracer: runs a program once and records its operators as a graph.

::

    make_fx ─┐
             ├─ Tracer ── TracingMode ── Recorder ── TensorSlots
    capture ─┘   one        sees every     builds      which node stands
                 capture    operator       the graph   for which tensor

The modules here are one capture from call to graph. What they stand on has folders of its own:
`recording` writes nodes, `memory` makes the results of operators seen before, `symbols` keeps
numbers that are known only when the program runs, `provenance` tells where nodes come from,
`predispatch` captures above autograd, and `bridge` is what torch's own higher-order operators see
of a tracer. `retrace` stands on all of it: graphs are run to become other graphs.
"""

from __future__ import annotations

from ._access import get_slot as get_slot
from ._access import has_slot as has_slot
from ._access import keep_slots as keep_slots
from ._access import set_slot as set_slot
from ._access import snapshot as snapshot
from ._access import track_tensor_tree as track_tensor_tree
from ._atoms import ATOMS as ATOMS
from ._inputs import fake_mode_for as fake_mode_for
from ._inputs import fakify as fakify
from ._isolation import disable_proxy_modes_tracing as disable_proxy_modes_tracing
from ._isolation import fake_signature as fake_signature
from ._isolation import get_innermost_proxy_mode as get_innermost_proxy_mode
from ._isolation import get_isolated_graphmodule as get_isolated_graphmodule
from ._isolation import get_proxy_mode as get_proxy_mode
from ._isolation import maybe_disable_thunkify as maybe_disable_thunkify
from ._isolation import maybe_enable_thunkify as maybe_enable_thunkify
from ._isolation import trace_subgraph as trace_subgraph
from ._isolation import wrapper_and_args_for_make_fx as wrapper_and_args_for_make_fx
from ._make_fx import TRACING_MODES as TRACING_MODES
from ._make_fx import make_fx as make_fx
from ._mode import DecompositionTable as DecompositionTable
from ._mode import TracingMode as TracingMode
from ._techniques import Techniques as Techniques
from ._tracer import Placeholder as Placeholder
from ._tracer import Tracer as Tracer
from ._tracer import TraceRuleFunction as TraceRuleFunction
from ._tracer import TracingOptions as TracingOptions
from ._tracer import suspended as suspended
from .bridge._reentry import active_tracer as active_tracer
from .bridge._regions import Region as Region
from .bridge._regions import drop_unused_attributes as drop_unused_attributes
from .bridge._regions import lift_captured as lift_captured
from .bridge._regions import nest_inputs as nest_inputs
from .predispatch._hidden import refuse_hidden_tensors as refuse_hidden_tensors
from .provenance._functions import FunctionMode as FunctionMode
from .provenance._functions import function_mode_removed as function_mode_removed
from .provenance._locations import current_location as current_location
from .provenance._locations import node_location as node_location
from .provenance._locations import raising_location as raising_location
from .provenance._module_stack import ModulePaths as ModulePaths
from .provenance._stack_traces import ForwardTraces as ForwardTraces
from .provenance._stack_traces import StackTraces as StackTraces
from .provenance._stack_traces import UserTraces as UserTraces
from .recording._leaks import Leak as Leak
from .recording._leaks import LeakWatch as LeakWatch
from .recording._leaks import watch_leaks as watch_leaks
from .recording._objects import is_object as is_object
from .recording._recorder import Recorder as Recorder
from .recording._values import ValueRecorder as ValueRecorder
from .retrace._appender import GraphAppender as GraphAppender
from .retrace._attributes import assign_attribute as assign_attribute
from .retrace._decomposition import DecompositionInterpreter as DecompositionInterpreter
from .retrace._decomposition import decompose as decompose
from .retrace._decomposition import selective_decompose as selective_decompose
from .retrace._replay import Replay as Replay
from .symbols._guards import check_guards as check_guards
