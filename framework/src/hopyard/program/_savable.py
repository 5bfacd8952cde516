"""What a `.pt2` file has no place for, refused before anything is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.export.graph_signature import SymBoolArgument
from torch.fx import GraphModule, Node

from .._torch.dispatch import HigherOrderOperator
from ..errors import ArtifactError
from ._modules_file import Savable

if TYPE_CHECKING:
    from ._program import Program

_NUMBERS = (int, bool, float, complex, torch.SymInt, torch.SymFloat, torch.SymBool)
_SETTINGS = (torch.dtype, torch.device, torch.layout, torch.memory_format)


def refuse_unsavable(program: Program) -> None:
    """Refuse a program that could not be written, or could not be read again.

    Raises:
        ArtifactError: It holds modules, results or configuration of a kind that files do not have.
    """
    _refuse_modules(program)
    _refuse_results(program)
    _refuse_region_results(program)
    _refuse_configuration(program)


def _refuse_modules(program: Program) -> None:
    graph_module = program.graph_module
    for node in graph_module.graph.find_nodes(op="get_attr"):
        value = getattr(graph_module, str(node.target))
        if isinstance(value, torch.nn.Module) and not isinstance(value, GraphModule | Savable):
            raise ArtifactError(
                f"the program holds {node.target}, a {type(value).__name__}, "
                "which a .pt2 file cannot",
                hint="save the program as it was before it was delegated",
                stage="save",
            )


def _refuse_results(program: Program) -> None:
    """Refuse results that torch's format has no place for."""
    results = program.signature.output_specs
    if not results:
        raise ArtifactError(
            "the program returns nothing and changes nothing, and torch writes no such graph",
            hint="return something, if only None",
            stage="save",
        )
    for spec in results:
        if isinstance(spec.arg, SymBoolArgument):
            raise ArtifactError(
                f"the program returns {spec.arg.name}, a truth value that is only known when it "
                "runs, and torch writes no such result",
                hint="return it as a tensor or as a number",
                stage="save",
            )


def _refuse_region_results(program: Program) -> None:
    for name, body in program.graph_module.named_modules():
        if not name or not isinstance(body, GraphModule):
            continue
        result = body.graph.output_node().args[0]
        items = result if isinstance(result, (tuple, list)) else [result]
        for item in items:
            if isinstance(item, Node) and not isinstance(item.meta.get("val"), torch.SymBool):
                continue
            if type(item) is int or (item is None and items is not result):
                continue
            shown = result if item is result else f"{item}, among others"
            raise ArtifactError(
                f"the region {name} returns {shown}, and a .pt2 file holds only regions that "
                "return a tensor or a tuple of tensors and numbers",
                hint="return a tuple of tensors from the body of the region",
                stage="save",
            )


def _refuse_configuration(program: Program) -> None:
    for module in program.graph_module.modules():
        if not isinstance(module, GraphModule):
            continue
        for node in module.graph.nodes:
            if not isinstance(node.target, HigherOrderOperator):
                continue
            for name, value in node.kwargs.items():
                if not _is_savable(value):
                    raise ArtifactError(
                        f"{node.target.name()} is called with {name}={value!r}, which a .pt2 file "
                        "cannot hold",
                        hint="configure it with numbers, text, data types, devices, lists of one "
                        "type, or dictionaries with text as keys",
                        stage="save",
                    )


def _is_savable(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        kinds = {int if isinstance(item, Node) else type(item) for item in value}
        return len(kinds) <= 1 and None not in value and all(map(_is_savable, value))
    if isinstance(value, dict):
        return all(type(key) is str for key in value) and all(map(_is_savable, value.values()))
    return value is None or isinstance(value, (str, Node, *_NUMBERS, *_SETTINGS))
