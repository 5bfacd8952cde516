"""Partitions: nodes of a graph that are computed in one go, and their replacement by one call.

:func:`partition` chooses the nodes, :func:`outline` makes each partition a graph of its own and
replaces it by a call of what becomes of that graph::

    partitions = partition(program.graph_module, lambda node: node.target in SUPPORTED)
    outlined = outline(
        program.graph_module, partitions, lambda subgraph: Call(run, lower(subgraph.graph_module))
    )

The graph has to be functional, as a program's is. Replacing a partition moves nodes; operators that
draw random numbers or have other effects keep their order, so that a seed gives the same numbers
as before.
"""

from __future__ import annotations

from .._graph_copy import copy_graph_module as copy_graph_module
from ._content import content_of as content_of
from ._content import digest_of as digest_of
from ._exported import export_partition as export_partition
from ._outline import Call as Call
from ._outline import Subgraph as Subgraph
from ._outline import outline as outline
from ._outline import outline_together as outline_together
from ._partition import Partition as Partition
from ._partition import changes_operands as changes_operands
from ._partition import draws_random_numbers as draws_random_numbers
from ._partition import partition as partition
from ._state import RANGES as RANGES
from ._state import STATE as STATE
from ._state import constant_state as constant_state
from ._state import with_state as with_state
from ._state import without_state as without_state
