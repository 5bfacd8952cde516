"""Tensors that a capture above autograd has not seen made, and took for constants.

What autograd saves for a backward pass, `x.data`, and what a function transform wraps come about
without an operator that reaches the capture. As torch does, it takes them for constants; with other
inputs the graph would compute something else.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator

from torch import Tensor
from torch.fx import GraphModule

from ..._torch.dispatch import is_transformed
from ..._torch.fake import FakeTensor
from ...errors import CaptureWarning
from ..provenance._locations import current_location


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
        value = operator.attrgetter(str(node.target))(graph_module)
        if isinstance(value, Tensor) and (
            is_transformed(value) or (fakes and isinstance(value, FakeTensor))
        ):
            yield str(node.target)
