"""Verification: whether a graph is sound."""

from __future__ import annotations

from torch.fx import GraphModule

from ._graphs import count_nodes as count_nodes
from ._graphs import walk_graphs as walk_graphs
from ._signature import check_inputs as check_inputs
from ._signature import check_outputs as check_outputs
from ._signature import check_region as check_region
from ._structure import check_structure
from ._symbols import check_symbols
from ._values import check_values


def verify(
    graph_module: GraphModule, *, propagate: bool = False, since: GraphModule | None = None
) -> None:
    """Check a graph and the bodies of the higher-order operators in it.

    Inputs come first, one output comes last; only operators, functions of numbers and reads of
    attributes that exist lie between; every use follows its definition; every value has metadata,
    whose symbols come from inputs or from earlier nodes.

    Args:
        graph_module: The graph.
        propagate: Whether to compute the metadata of each node from that of its operands and
            compare shape, data type, device and strides with `meta["val"]`.
        since: An earlier version of the graph that is known to be sound. Nodes that are as they
            were are not computed again.

    Raises:
        VerificationError: What is wrong, and with which node.
    """
    for path, body in walk_graphs(graph_module):
        check_structure(path, body)
    check_symbols(graph_module)
    if propagate:
        check_values(graph_module, since)
