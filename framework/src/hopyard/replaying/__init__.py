"""What replays of graphs stand on: stamps, values computed alone, comparison, and writing.

A replay makes a graph from another one, node by node. :class:`Stamp` tells it which nodes need not
be computed again, :class:`Computation` computes the others as nothing around the replay can change,
:func:`is_same_value` says when a value that was computed again is the one that is known, and
:class:`GraphWriter` writes the nodes.
"""

from __future__ import annotations

from .._graph_writer import GraphWriter as GraphWriter
from .._lazy_code import LazyGraphModule as LazyGraphModule
from .._stamps import NEVER as NEVER
from .._stamps import STAMP as STAMP
from .._stamps import Epoch as Epoch
from .._stamps import Stamp as Stamp
from .._stamps import carry_stamp as carry_stamp
from .._stamps import is_untouched as is_untouched
from .._stamps import remove_stamps as remove_stamps
from .._stamps import stamp_graph as stamp_graph
from .._stamps import stamp_node as stamp_node
from .._stamps import stamp_of as stamp_of
from .._stamps import version_of as version_of
from .._torch.fake import FakeTensor as FakeTensor
from .._torch.fake import FakeTensorMode as FakeTensorMode
from .._torch.graphs import TorchPassResult as TorchPassResult
from .._torch.graphs import map_nodes as map_nodes
from .._torch.provenance import COPIED_KEYS as COPIED_KEYS
from ..tracing._atoms import ATOMS as ATOMS
from ._comparing import is_same_value as is_same_value
from ._computing import Computation as Computation
from ._computing import is_indexing_without_mask as is_indexing_without_mask
from ._computing import is_reshaping as is_reshaping
from ._computing import is_writing as is_writing
from ._computing import repeats as repeats
from ._describing import describe_value as describe_value

__all__ = [
    "Computation",
    "Epoch",
    "GraphWriter",
    "LazyGraphModule",
    "Stamp",
    "carry_stamp",
    "describe_value",
    "is_indexing_without_mask",
    "is_reshaping",
    "is_same_value",
    "is_untouched",
    "is_writing",
    "remove_stamps",
    "repeats",
    "stamp_graph",
    "stamp_node",
    "stamp_of",
    "version_of",
]
# What is torch's is here for plugins too, and documented there: FakeTensor, FakeTensorMode,
# TorchPassResult, map_nodes. ATOMS, STAMP, NEVER and COPIED_KEYS are for whoever must be fast.
