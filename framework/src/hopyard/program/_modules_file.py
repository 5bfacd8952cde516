"""Modules that an operator is given and that are no graphs, as graphs and bytes beside them.

A lowered partition is one: its file has the reference graph where the module was, and what only its
plugin can read as a member of its own. So the graph in the file is right without that member.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias, runtime_checkable

from torch.fx import GraphModule, Node
from torch.nn import Module

from .._graph_copy import copy_graph_module
from .._torch.dispatch import HigherOrderOperator
from ..errors import ArtifactError
from ._program import Program

MODULES = "hopyard-modules.json"
"""Name of the member that lists the modules; only there if there are some."""

FORMAT = 1
"""Version of the layout of this file."""

_MEMBER = "hopyard-module-"

Restore: TypeAlias = Callable[[str, GraphModule, bytes], Module]
"""Makes a module of what was saved: `(operator, graph, content)`."""


@runtime_checkable
class Savable(Protocol):
    """A module that a file can hold."""

    def to_artifact(self) -> tuple[GraphModule, bytes]:
        """Return a graph that computes the same, and what else is needed to make the module."""
        ...


def write_modules(program: Program) -> tuple[Program, dict[str, str | bytes]]:
    """Return a program without modules that are no graphs, and members that tell of them.

    Raises:
        ArtifactError: Such a module is used by something else than an operator's call.
    """
    found = {
        node: value
        for node in program.graph.find_nodes(op="get_attr")
        if isinstance(value := getattr(program.graph_module, str(node.target), None), Savable)
        and not isinstance(value, GraphModule)
    }
    if not found:
        return program, {}
    graph_module = copy_graph_module(program.graph_module)
    listed = []
    members: dict[str, str | bytes] = {}
    known: dict[str, str] = {}
    for node, value in found.items():
        name = str(node.target)
        if name not in known:
            known[name] = f"{_MEMBER}{len(known)}"
            region, members[known[name]] = value.to_artifact()
            delattr(graph_module, name)
            graph_module.add_module(name, region)
        listed += [
            {"call": call.name, "operator": _operator(call), "member": known[name]}
            for call in node.users
        ]
    graph_module.recompile()
    text = json.dumps({"format": FORMAT, "modules": listed}, indent=2)
    return program.replaced(graph_module=graph_module), {MODULES: text, **members}


def read_modules(program: Program, members: Mapping[str, bytes], restore: Restore) -> None:
    """Put modules back where :func:`write_modules` put graphs, in place.

    Raises:
        ArtifactError: The members do not describe this program.
    """
    data = json.loads(members[MODULES])
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError("the modules are of another format")
    graph_module = program.graph_module
    calls = {node.name: node for node in graph_module.graph.nodes}
    made: dict[str, Module] = {}
    for entry in data["modules"]:
        call, member = calls.get(entry["call"]), str(entry["member"])
        region = call.args[0] if call is not None and call.args else None
        if call is None or not isinstance(region, Node) or region.op != "get_attr":
            raise ValueError(f"there is no call {entry['call']!r} with a region")
        if _operator(call) != entry["operator"]:
            raise ValueError(f"{call.name} does not call {entry['operator']}")
        name = str(region.target)
        body = getattr(graph_module, name)
        if member not in made:
            made[member] = restore(str(entry["operator"]), body, members[member])
        if getattr(graph_module, name) is not made[member]:
            delattr(graph_module, name)
            graph_module.add_module(name, made[member])
    graph_module.recompile()


def _operator(call: Node) -> str:
    if isinstance(call.target, HigherOrderOperator):
        return str(call.target.name())
    raise ArtifactError(
        f"{call.name} is given a module, and is no call of an operator",
        hint="save the program as it was before the module came into it",
        stage="save",
    )


def member_contents(members: Mapping[str, bytes], prefix: str) -> dict[str, bytes]:
    """Return the members that are :func:`write_modules`'s, without the folder of all."""
    return {
        name.removeprefix(prefix): content
        for name, content in members.items()
        if name == prefix + MODULES or name.startswith(prefix + _MEMBER)
    }
