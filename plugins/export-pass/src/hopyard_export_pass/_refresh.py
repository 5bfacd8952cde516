"""The metadata of a graph that somebody has edited."""

from __future__ import annotations

from torch.fx import GraphModule

from hopyard.replaying import TorchPassResult

from ._base import ExportPass


class _Refresh(ExportPass):
    """Overrides nothing: what was edited is computed anew, and everything after it."""


def refresh_metadata(graph_module: GraphModule) -> TorchPassResult:
    """Return a graph whose metadata says what its nodes compute.

    Write it after editing a graph by hand, where passes for torch's base write
    `super().call(graph_module)`. Nodes that were not edited, and whose operands are what they were,
    are copied. Tensors are shared, and the given graph is left as it is.

    Raises:
        ReplayError: A node cannot be computed from its operands.
    """
    return _Refresh()(graph_module)
