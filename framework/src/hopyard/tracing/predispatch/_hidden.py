"""Tensors that a capture above autograd has not seen made, and took for constants.

What autograd saves for a backward pass, `x.data`, and what a function transform wraps come about
without an operator that reaches the capture. As torch does, it takes them for constants; with other
inputs the graph would compute something else.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Node

from ..._torch.dispatch import is_transformed
from ..._torch.fake import FakeTensor
from ...errors import CaptureWarning, UnsupportedError
from ..provenance._locations import current_location, node_location


def refuse_hidden_tensors(graph_module: GraphModule, *, fakes: bool) -> None:
    """Refuse a graph with constants that were computed from its example inputs.

    Args:
        graph_module: The graph.
        fakes: Whether fake tensors can only come from the capture itself.

    Raises:
        UnsupportedError: There is one; the line is that of its first use.
    """
    for node in graph_module.graph.find_nodes(op="get_attr"):
        if not _is_hidden(_read(graph_module, node), fakes=fakes):
            continue
        raise UnsupportedError(
            "a tensor comes from the inputs in a way that a capture above autograd does not see, "
            "such as x.data, a gradient or a function transform, and would be a constant",
            hint="use x.detach() in place of x.data, or capture with pre_dispatch=False",
            stage="capture",
            location=next(filter(None, map(node_location, node.users)), None),
        )


def warn_of_hidden_tensors(graph_module: GraphModule, *, fakes: bool) -> None:
    """Warn if constants of a graph were computed from its example inputs.

    It shows in a fake capture, and for what a transform wraps. A real tensor does not tell where
    it comes from.

    Args:
        graph_module: The graph.
        fakes: Whether fake tensors can only come from the capture itself.
    """
    hidden = list(dict.fromkeys(_hidden(graph_module, fakes=fakes)))
    if not hidden:
        return
    shown = ", ".join(hidden[:3]) + (f" and {len(hidden) - 3} more" if len(hidden) > 3 else "")
    where = current_location()
    message = (
        f"make_fx: {shown} of the graph come from the example inputs in a way that a capture above "
        "autograd does not see, and the graph holds them as constants; capture gradients and .data "
        "with pre_dispatch=False, and function transforms so or while exporting"
    )
    if where is None:
        warnings.warn(message, CaptureWarning, stacklevel=3)
    else:
        warnings.warn_explicit(message, CaptureWarning, where.file, where.line)


def _hidden(graph_module: GraphModule, *, fakes: bool) -> Iterator[str]:
    for node in graph_module.graph.find_nodes(op="get_attr"):
        if _is_hidden(_read(graph_module, node), fakes=fakes):
            yield str(node.target)


def _read(graph_module: GraphModule, node: Node) -> Any:
    return operator.attrgetter(str(node.target))(graph_module)


def _is_hidden(value: Any, *, fakes: bool) -> bool:
    if not isinstance(value, Tensor):
        return False
    return is_transformed(value) or (fakes and isinstance(value, FakeTensor))
