"""What is written on each node about where it comes from, when the node is made."""

from __future__ import annotations

from torch.fx import Node, traceback

from ._functions import FunctionNotes
from ._inherited import inherit
from ._module_stack import ModuleStack
from ._stack_traces import StackTraces

_INTERFACE = ("placeholder", "output")
"""Nodes that belong to no line and no module of the program."""


class Origin:
    """Marks the nodes of one graph.

    Attributes:
        stack_traces: Writes the source lines of nodes; None if they are not wanted.
        modules: The modules being called; None if nodes do not tell them.
        functions: The torch functions called; None if nodes do not tell them.
    """

    def __init__(
        self, stack_traces: StackTraces | None = None, modules: ModuleStack | None = None
    ) -> None:
        self.stack_traces = stack_traces
        self.modules = modules
        self.functions = None if modules is None else FunctionNotes()
        self._idle = stack_traces is None and modules is None

    @property
    def is_silent(self) -> bool:
        """Whether nothing would be written on a node that is made now."""
        return self._idle and not traceback.should_preserve_node_meta

    def mark(self, node: Node) -> Node:
        """Write on `node` where it comes from, and return it; call it once, when it is made."""
        copying = traceback.should_preserve_node_meta
        if self._idle and not copying:
            return node
        if copying:
            inherit(node)
        if node.op in _INTERFACE:
            node.meta.pop("stack_trace", None)
            return node
        if self.stack_traces is not None and not node.meta.get("stack_trace"):
            trace = self.stack_traces.current()
            if trace is not None:
                node.meta["stack_trace"] = trace
        if self.modules is not None:
            self.modules.describe(node)
        if self.functions is not None and node.op == "call_function":
            self.functions.describe(node)
        return node
