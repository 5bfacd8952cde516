"""`hopyard show`."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ._answer import Answer, table

if TYPE_CHECKING:
    from ..program import FileListing, Listed

SUMMARY = "Say what a file holds: plugins, inputs, outputs, operators, cost and size."

_DETAILS = """\
FILE is a .pt2 file of hopyard or of torch.export. It is read as text: nothing in it is executed,
and no plugin is needed. FLOP are floating-point operations, a multiplication with an addition being
two; bytes are what operators read and write if nothing is fused.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = _DETAILS
    parser.add_argument("file", metavar="FILE", help="the file")
    parser.add_argument(
        "--all", action="store_true", help="list every operator and module, not the first few"
    )


def answer(arguments: argparse.Namespace) -> Answer:
    """Describe a file.

    Raises:
        ArtifactError: It cannot be read.
    """
    from ..program import list_file

    listing = list_file(arguments.file)
    return Answer(_lines(listing, everything=arguments.all), _data(listing))


def _lines(listing: FileListing, *, everything: bool) -> list[str]:
    from ..analysis import written

    manifest = listing.manifest
    what = f"program of hopyard {manifest.hopyard}" if manifest else "program of torch.export"
    nodes = sum(listing.operators.values())
    total = listing.cost.total
    lines = [
        f"file       {listing.path} ({written(listing.size, 'B')})",
        f"kind       {what}, torch {listing.torch}",
    ]
    if manifest:
        plugins = ", ".join(map(str, manifest.plugins)) or "none"
        lines.append(f"plugins    {plugins}")
        lines += [f"needs      {', '.join(manifest.hops)}"] if manifest.hops else []
    lines.append(f"hopyard.load {'refuses it' if listing.refusals else 'reads it'}")
    lines += [f"           {reason}" for reason in listing.refusals]
    for kind in ("parameter", "buffer", "constant"):
        lines += _stored([each for each in listing.state if each.kind == kind], kind)
    lines += ["", *_values(listing.inputs, "INPUT")]
    lines += ["", *_values(listing.outputs, "OUTPUT")]
    lines += [
        f"{'' if low is None else low} <= {name} <= {'' if high is None else high}"
        for name, (low, high) in listing.ranges.items()
    ]
    counted = sorted(listing.operators.items(), key=lambda item: (-item[1], item[0]))
    shown = counted if everything else counted[:10]
    lines += ["", f"{nodes} calls of {len(counted)} operators"]
    lines += table(("OPERATOR", "CALLS"), [(name, str(n)) for name, n in shown], right=(1,))
    hidden = len(counted) - len(shown)
    lines += [f"... and {hidden} more (--all)"] if hidden else []
    lines += ["", f"cost       {written(total.flops, 'FLOP')}, {written(total.moved, 'B')} moved"]
    depth, count = (99, len(counted)) if everything else (2, 10)
    return [*lines, *listing.cost.lines(depth, count)[1:]]


def _stored(values: list[Listed], kind: str) -> list[str]:
    from ..analysis import written

    if not values:
        return []
    tensors = [each.tensor for each in values if each.tensor is not None]
    elements = sum(math.prod(tensor.shape) for tensor in tensors)
    size = sum(math.prod(tensor.shape) * tensor.dtype.itemsize for tensor in tensors)
    noun = kind if len(values) == 1 else f"{kind}s"
    return [f"{noun:<10} {len(values)}, {elements} elements, {written(size, 'B')}"]


def _values(values: tuple[Listed, ...], title: str) -> list[str]:
    rows = [
        (each.name or "-", each.type_text, "" if each.kind == title.lower() else each.kind)
        for each in values
    ]
    return table((title, "TYPE", ""), rows) if rows else [f"no {title.lower()}s"]


def _data(listing: FileListing) -> dict[str, Any]:
    manifest = listing.manifest
    return {
        "file": str(listing.path),
        "size": listing.size,
        "torch": listing.torch,
        "hopyard": manifest.hopyard if manifest else None,
        "plugins": [asdict(provider) for provider in manifest.plugins] if manifest else [],
        "hops": list(manifest.hops) if manifest else [],
        "refusals": list(listing.refusals),
        "inputs": [_listed_data(each) for each in listing.inputs],
        "outputs": [_listed_data(each) for each in listing.outputs],
        "state": [_listed_data(each) for each in listing.state],
        "ranges": {name: list(bounds) for name, bounds in listing.ranges.items()},
        "operators": dict(listing.operators),
        "cost": {key: value for key, value in listing.cost.data().items() if key != "nodes"},
    }


def _listed_data(listed: Listed) -> dict[str, Any]:
    data: dict[str, Any] = {"name": listed.name, "kind": listed.kind}
    if listed.tensor is None:
        return {**data, "value": listed.value}
    sizes = [size if isinstance(size, int) else str(size) for size in listed.tensor.shape]
    dtype = str(listed.tensor.dtype).removeprefix("torch.")
    return {**data, "dtype": dtype, "shape": sizes, "device": str(listed.tensor.device)}
