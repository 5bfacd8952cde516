"""Graphs above autograd whose changes of grad mode and of autocast are regions.

A capture above autograd records such a change as a call that affects all that follow. Passes could
move what follows, and no file holds such a call; torch has operators that run a body instead.
"""

from __future__ import annotations

from torch.fx import GraphModule

from .._torch.exporting import autocast_to_regions, grad_modes_to_regions


def with_regions(graph_module: GraphModule) -> GraphModule:
    """Return an equivalent graph in which operators run what is between two changes of mode."""
    for to_regions in (grad_modes_to_regions, autocast_to_regions):
        graph_module, _ = to_regions(graph_module, None)
    return graph_module
