"""What a file is, told without loading it."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from ..analysis import Call, CostReport, Region, TensorSpec, cost_of_calls
from ..errors import ArtifactError
from ._artifact import MANIFEST
from ._listed_calls import listed_amount, listed_calls, listed_tensor
from ._manifest import Manifest
from ._vetting import (
    CONSTANTS,
    DESCRIPTIONS,
    EXTRA,
    GRAPH,
    SAMPLE_INPUTS,
    WEIGHTS,
    Untrusted,
    check_descriptions,
)

_CONFIGS = {"parameters": WEIGHTS, "constants": CONSTANTS}
_LARGEST = 2**28
"""Bytes of the largest description that is read; that of a graph of a million nodes is smaller."""


@dataclass(frozen=True, slots=True)
class Listed:
    """An input, an output, or something that is stored.

    Attributes:
        name: Its name.
        kind: What it is, for example `"parameter"`.
        tensor: Its type, if it is a tensor.
        value: What it is, if it is none.
    """

    name: str
    kind: str
    tensor: TensorSpec | None
    value: object = None

    @property
    def type_text(self) -> str:
        """Its type as people write it."""
        if self.tensor is None:
            return repr(self.value)
        sizes = ", ".join(map(str, self.tensor.shape))
        return f"{str(self.tensor.dtype).removeprefix('torch.')}[{sizes}] on {self.tensor.device}"


@dataclass(frozen=True, slots=True)
class FileListing:
    """What a `.pt2` file says of itself.

    Attributes:
        path: The file.
        size: Its size in bytes.
        torch: The version of torch that wrote it.
        manifest: What Hopyard wrote; None if something else wrote the file.
        inputs: What the user passes.
        outputs: What the program returns and changes.
        state: Parameters, buffers and constants.
        ranges: Least and greatest value of each dynamic size; None for no bound.
        operators: How often each operator is called in the graph, regions included.
        cost: What a run costs.
        refusals: Why :func:`hopyard.load` would not read the file; () if it would.
    """

    path: Path
    size: int
    torch: str
    manifest: Manifest | None
    inputs: tuple[Listed, ...]
    outputs: tuple[Listed, ...]
    state: tuple[Listed, ...]
    ranges: Mapping[str, tuple[int | None, int | None]]
    operators: Mapping[str, int]
    cost: CostReport
    refusals: tuple[str, ...]


def list_file(path: str | PathLike[str]) -> FileListing:
    """Return what a `.pt2` file of Hopyard or `torch.export` holds.

    Its descriptions are read as text, its tensors not at all; nothing in it is executed.

    Raises:
        ArtifactError: There is no such file, it is damaged, or it is of another kind.
    """
    source = Path(path)
    if not source.is_file():
        raise ArtifactError(f"there is no file {source}", stage="show")
    try:
        with zipfile.ZipFile(source) as archive:
            return _listing(source, archive)
    except ArtifactError:
        raise
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise _unreadable(source, str(error), "it is no .pt2 file, or an incomplete one") from error
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        hint = "it is damaged, or from another version of torch"
        raise _unreadable(source, f"{type(error).__name__}: {error}", hint) from error


def _listing(source: Path, archive: zipfile.ZipFile) -> FileListing:
    names = archive.namelist()
    root = names[0].partition("/")[0] if names else ""
    members = {entry.filename.removeprefix(f"{root}/"): entry for entry in archive.infolist()}
    if GRAPH not in members:
        compiled = any(name.startswith("data/aotinductor/") for name in members)
        what = "only compiled code" if compiled else "no program of torch.export"
        hint = "AOTInductor's loader of packages loads it, and runs it" if compiled else ""
        raise ArtifactError(f"{source} holds {what}", hint=hint, stage="show")
    texts = {}
    for name in (GRAPH, *_CONFIGS.values(), EXTRA + MANIFEST):
        if name in members:
            texts[name] = _text(archive, members[name], source)
    model = json.loads(texts[GRAPH])
    graph, signature = model["graph_module"]["graph"], model["graph_module"]["signature"]
    calls = listed_calls(graph)
    written = texts.get(EXTRA + MANIFEST)
    return FileListing(
        path=source,
        size=source.stat().st_size,
        torch=str(model.get("torch_version", "")),
        manifest=Manifest.from_json(written.decode()) if written is not None else None,
        inputs=tuple(
            _listed(graph, spec["user_input"]["arg"], "input")
            if "user_input" in spec
            else _constant(spec["constant_input"])
            for spec in signature["input_specs"]
            if spec.keys() & {"user_input", "constant_input"}
        ),
        outputs=tuple(_output(graph, spec) for spec in signature["output_specs"]),
        state=tuple(_state(texts, signature)),
        ranges={
            str(name): (bounds["min_val"], bounds["max_val"])
            for name, bounds in model["range_constraints"].items()
        },
        operators=Counter(_operators(calls)),
        cost=CostReport(cost_of_calls(calls)),
        refusals=tuple(_refusals(members, texts, written is not None)),
    )


def _text(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, source: Path) -> bytes:
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > _LARGEST:
        raise ArtifactError(
            f"{source} says it has {entry.file_size} bytes of {entry.filename}, more than is read",
            hint="it was not written by torch or hopyard",
            stage="show",
        )
    return archive.read(entry)


def _listed(graph: Mapping[str, Any], argument: Mapping[str, Any], kind: str) -> Listed:
    ((form, value),) = argument.items()
    if form == "as_tensor":
        return Listed(value["name"], kind, listed_tensor(graph["tensor_values"][value["name"]]))
    if isinstance(value, Mapping) and "as_name" in value:
        size = graph["sym_int_values"].get(value["as_name"])
        return Listed(value["as_name"], kind, None, size and listed_amount(size))
    return Listed("", kind, None, None if form == "as_none" else value)


def _constant(spec: Mapping[str, Any]) -> Listed:
    ((form, value),) = spec["value"].items()
    return Listed(spec["name"], "input", None, None if form == "as_none" else value)


def _output(graph: Mapping[str, Any], spec: Mapping[str, Any]) -> Listed:
    ((form, content),) = spec.items()
    kind = {"user_output": "output"}.get(form, form.replace("_", " "))
    argument = content.get("arg", {"as_none": True})
    if argument.keys() == {"name"}:
        argument = {"as_tensor": argument}
    listed = _listed(graph, argument, kind)
    changed = next((str(content[key]) for key in content if key.endswith("_name")), listed.name)
    return Listed(changed, kind, listed.tensor, listed.value)


def _state(texts: Mapping[str, bytes], signature: Mapping[str, Any]) -> list[Listed]:
    buffers = {
        spec["buffer"]["buffer_name"] for spec in signature["input_specs"] if "buffer" in spec
    }
    found = []
    for group, config in _CONFIGS.items():
        for name, entry in json.loads(texts[config])["config"].items():
            kind = "buffer" if name in buffers else group.removesuffix("s")
            meta = entry.get("tensor_meta")
            found.append(Listed(name, kind, listed_tensor(meta) if meta else None, "an object"))
    return found


def _operators(calls: tuple[Call, ...]) -> list[str]:
    names = []
    for call in calls:
        names.append(call.operator)
        for operand in (*call.args, *call.kwargs.values()):
            if isinstance(operand, Region):
                names += _operators(operand.calls)
    return names


def _refusals(
    members: Mapping[str, zipfile.ZipInfo], texts: Mapping[str, bytes], is_ours: bool
) -> list[str]:
    found = [] if is_ours else ["it was not saved by hopyard"]
    if SAMPLE_INPUTS in members and members[SAMPLE_INPUTS].file_size:
        found.append(f"{SAMPLE_INPUTS} is a pickle")
    native = ("data/aotinductor/", "data/executorch/")
    found += [f"{name} is native code" for name in members if name.startswith(native)]
    try:
        check_descriptions({name: json.loads(texts[name]) for name in DESCRIPTIONS})
    except Untrusted as error:
        found.append(str(error))
    return found


def _unreadable(source: Path, why: str, hint: str) -> ArtifactError:
    return ArtifactError(f"cannot read {source}: {why}", hint=hint, stage="show")
