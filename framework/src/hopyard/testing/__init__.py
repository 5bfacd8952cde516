"""Tools for tests of plugins and of what they do to graphs.

::

    from hopyard.testing import assert_same_graph, plugin_session

    session = plugin_session(my_plugin)
    program = session.capture(model, (x,))
    result = session.run("my-pass", program)
    assert_same_graph(result.program.graph_module, expected)
"""

from __future__ import annotations

from ._assumptions import assert_same_assumptions as assert_same_assumptions
from ._assumptions import describe_assumptions as describe_assumptions
from ._compare import assert_same_graph as assert_same_graph
from ._describe import describe_graph as describe_graph
from ._description import AtomDescription as AtomDescription
from ._description import GraphDescription as GraphDescription
from ._description import MappingDescription as MappingDescription
from ._description import NodeDescription as NodeDescription
from ._description import NodeReference as NodeReference
from ._description import SequenceDescription as SequenceDescription
from ._description import TensorDescription as TensorDescription
from ._description import Value as Value
from ._effects import observed_effects as observed_effects
from ._effects import same_effects as same_effects
from ._hop_calls import HopSample as HopSample
from ._hops import HopContract as HopContract
from ._hops import SurfaceVerdict as SurfaceVerdict
from ._hops import check_hop as check_hop
from ._safeguards import SafeguardContract as SafeguardContract
from ._safeguards import SafeguardExample as SafeguardExample
from ._session import plugin_session as plugin_session
