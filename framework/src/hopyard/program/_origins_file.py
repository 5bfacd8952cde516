"""Which passes made the nodes of a program, as JSON beside torch's archive."""

from __future__ import annotations

import json
from dataclasses import asdict

from torch.fx import GraphModule

from hopyard_hookspecs import Origin, Provider

from ..verify import walk_graphs

FORMAT = 1
"""Version of the layout of this file."""


def write_origins(graph_module: GraphModule) -> str:
    """Return as JSON what nodes tell of their origin; "" if no pass made any."""
    numbers: dict[Origin, int] = {}
    nodes = {
        path: {
            node.name: _number(node.meta[Origin.KEY], numbers)
            for node in body.graph.nodes
            if Origin.KEY in node.meta
        }
        for path, body in walk_graphs(graph_module)
    }
    if not numbers:
        return ""
    origins = [
        {
            "name": origin.name,
            "provider": asdict(origin.provider),
            "nodes": origin.nodes,
            "earlier": [numbers[each] for each in origin.earlier],
        }
        for origin in numbers
    ]
    return json.dumps({"format": FORMAT, "origins": origins, "nodes": nodes}, indent=2)


def read_origins(graph_module: GraphModule, text: str) -> None:
    """Let nodes tell their origin, as :func:`write_origins` wrote it; by their names.

    A node whose name the file does not have tells nothing. A file of a later format is left alone.

    Raises:
        ValueError: The text is something else.
    """
    data = json.loads(text)
    if data["format"] != FORMAT:
        return
    origins: list[Origin] = []
    for each in data["origins"]:
        provider = Provider(*(str(each["provider"][key]) for key in _PROVIDER))
        # An origin comes after those it refers to, so none refers to itself.
        earlier = tuple(origins[int(number)] for number in each["earlier"])
        names = tuple(map(str, each["nodes"]))
        origins.append(Origin(str(each["name"]), provider, names, earlier))
    for path, body in walk_graphs(graph_module):
        numbers = data["nodes"].get(path, {})
        for node in body.graph.nodes:
            if node.name in numbers:
                node.meta[Origin.KEY] = origins[int(numbers[node.name])]


_PROVIDER = ("plugin", "distribution", "version")


def _number(origin: Origin, numbers: dict[Origin, int]) -> int:
    """Return the number of an origin, which is higher than that of those it refers to."""
    if origin not in numbers:
        for each in origin.earlier:
            _number(each, numbers)
        numbers[origin] = len(numbers)
    return numbers[origin]
