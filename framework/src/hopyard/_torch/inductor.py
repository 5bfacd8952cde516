"""Inductor: whether it compiles, its settings, and how it lowers operators.

Importing this module does not import Inductor, which takes a second.
"""

from __future__ import annotations

import os as _os
import sys as _sys
from collections.abc import Callable as _Callable
from typing import Any as _Any


def emulates_precision_casts() -> bool:
    """Return whether Inductor is to round as eager kernels do after each low-precision operator."""
    # While nobody has imported the settings, what they would be is in the environment.
    config = _sys.modules.get("torch._inductor.config")
    if config is None:
        return _os.environ.get("TORCHINDUCTOR_EMULATE_PRECISION_CASTS", "0") == "1"
    return bool(config.emulate_precision_casts)


def is_inductor_compiling() -> bool:
    """Say whether Inductor is compiling on this thread."""
    virtualized = _sys.modules.get("torch._inductor.virtualized")
    if virtualized is None:
        return False
    # A compilation ahead of time traces before it sets the mode.
    handler = virtualized.V
    return handler.aot_compilation is True or not isinstance(
        handler.fake_mode, virtualized.NullHandler
    )


def is_inductor_loaded() -> bool:
    """Say whether Inductor's table of lowerings is there."""
    return "torch._inductor.lowering" in _sys.modules


def register_lowering(operator: _Any, lowering: _Callable[..., _Any]) -> None:
    """Let Inductor call a function, with values of its own, for the calls of an operator."""
    from torch._inductor import lowering as table

    if operator not in table.lowerings:
        table.register_lowering(operator, type_promotion_kind=None)(lowering)


def graph_of(body: _Any) -> _Any:
    """Return the graph that Inductor's value for the body of a region stands for."""
    return body.graph_module


def call_being_lowered() -> _Any:
    """Return the node that Inductor is lowering."""
    from torch._inductor.virtualized import V

    return V.graph.current_node


def lower_graph(graph_module: _Any, values: _Any) -> _Any:
    """Lower a graph as part of the one that is being lowered, on Inductor's values.

    The graph is used up.
    """
    from torch._inductor.lowering import process_subgraph_nodes
    from torch._inductor.virtualized import V

    for node in graph_module.graph.find_nodes(op="get_attr"):
        # Inductor looks up the attributes of inner graphs in the outermost one.
        name = f"{V.graph.current_node.name}_{node.target}"
        while hasattr(V.graph.module, name):
            name += "_"
        setattr(V.graph.module, name, getattr(graph_module, node.target))
        node.target = name
    return process_subgraph_nodes(graph_module, list(values))


def compile_and_package(program: _Any, file: str) -> None:
    """Compile an exported program ahead of time into a package that runs without Python."""
    from torch._inductor import aoti_compile_and_package

    aoti_compile_and_package(program, package_path=file)


def load_package(file: str) -> _Any:
    """Return a program that was compiled ahead of time."""
    from torch._inductor import aoti_load_package

    return aoti_load_package(file)


__all__ = [
    "call_being_lowered",
    "compile_and_package",
    "emulates_precision_casts",
    "graph_of",
    "is_inductor_compiling",
    "is_inductor_loaded",
    "load_package",
    "lower_graph",
    "register_lowering",
]
