"""`dce`: what nothing uses is removed."""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import GraphModule

from hopyard.tracing import drop_unused_attributes
from hopyard.verify import walk_graphs
from hopyard_hookspecs import PassResult

from ._effects import is_removable


@dataclass(frozen=True)
class EliminateDeadCode:
    """Remove nodes whose result nothing uses and that have no effect, also in bodies of regions.

    Inputs stay, and so does everything that could be noticed: writes to tensors, random operators
    (without one, a seed would give the next another number), checks, `.item()`, operators that
    return nothing, and higher-order operators that do more than run their bodies. Attributes that
    were only read by what is removed are removed too.
    """

    def __call__(self, graph_module: GraphModule) -> PassResult:
        """Remove dead nodes in place."""
        # What a call may do depends on its bodies, so bodies come first.
        changed = [_clean(body) for _, body in reversed(list(walk_graphs(graph_module)))]
        return PassResult(graph_module, any(changed))


def _clean(graph_module: GraphModule) -> bool:
    changed = False
    for node in reversed(graph_module.graph.nodes):
        if not node.users and is_removable(graph_module, node):
            graph_module.graph.erase_node(node)
            changed = True
    if not changed:
        return False
    _drop_unused_modules(graph_module)
    drop_unused_attributes(graph_module)
    graph_module.recompile()
    return True


def _drop_unused_modules(graph_module: GraphModule) -> None:
    used = {str(node.target).partition(".")[0] for node in graph_module.graph.nodes}
    for name, _ in list(graph_module.named_children()):
        if name not in used:
            delattr(graph_module, name)
