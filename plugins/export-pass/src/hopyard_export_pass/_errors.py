"""What goes wrong while a graph is replayed."""

from __future__ import annotations

from torch.fx import Node

from hopyard.errors import PassError
from hopyard.tracing import node_location
from hopyard_hookspecs import SourceLocation


class ReplayError(PassError):
    """A pass failed at a node, or a graph cannot be replayed.

    Args:
        message: What happened.
        node: The name of the node that was replayed, or "" if none was.
        stage: The name of the pass's class.
        hint: What to do about it.
        location: The line of the user's source that made the node.
    """

    def __init__(
        self,
        message: str,
        *,
        node: str = "",
        stage: str = "",
        hint: str = "",
        location: SourceLocation | None = None,
    ) -> None:
        super().__init__(message, hint=hint, stage=stage, location=location)
        self.node = node


def at_node(node: Node, problem: str, stage: str, hint: str = "") -> ReplayError:
    """Return the error that something is wrong with a node."""
    called = f" ({node.target})" if node.op == "call_function" else ""
    return ReplayError(
        f"node {node.name!r}{called} {problem}",
        node=node.name,
        stage=stage,
        hint=hint,
        location=node_location(node),
    )
