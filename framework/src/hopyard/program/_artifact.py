"""Programs on disk.

A `.pt2` file is torch's own archive with one more member, the manifest. torch executes the pickles of an archive
when it loads it; here every pickle is first read by torch's restricted reader, and a file that needs more than
that is refused before any of it runs.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import GraphModule

from .._torch.dispatch import HigherOrderOperator
from ..errors import ArtifactError, HopyardError, UnknownNameError
from ._export import from_exported_program, to_exported_program
from ._manifest import Manifest

if TYPE_CHECKING:
    from ._program import Program

MANIFEST = "hopyard.json"
"""Name of the member that holds the manifest."""

_NATIVE = ("/data/aotinductor/", "/data/executorch/")


def save_program(program: Program, path: str | PathLike[str]) -> None:
    """Write `program` to `path`; an existing file is replaced only by a complete one.

    Raises:
        ArtifactError: The file cannot be written, or the program holds something that cannot be saved.
    """
    destination = Path(path)
    _refuse_modules(program)
    exported = to_exported_program(program)
    manifest = Manifest(
        program.manifest.hopyard,
        program.manifest.torch,
        program.manifest.plugins,
        tuple(sorted(_hop_names(program.graph_module))),
    )
    try:
        with _replacing(destination) as temporary:
            torch.export.save(exported, temporary, extra_files={MANIFEST: manifest.to_json()})
    except HopyardError:
        raise
    except Exception as error:
        raise ArtifactError(
            f"cannot write {destination}: {error}",
            hint="check the folder, the free space and the types of values in the graph",
            stage="save",
        ) from error


def load_program(path: str | PathLike[str], hops: Mapping[str, object]) -> Program:
    """Read a program.

    Args:
        path: A `.pt2` file.
        hops: The higher-order operators at hand, by name.

    Raises:
        ArtifactError: The file is missing, damaged, of another kind, or contains code.
        UnknownNameError: It needs a plugin that is not installed; the message says which.
    """
    source = Path(path)
    if not source.is_file():
        raise ArtifactError(f"there is no file {source}", stage="load")
    try:
        with zipfile.ZipFile(source) as archive:
            manifest = _manifest(archive, source)
            _check_plugins(manifest, hops)
            for name in archive.namelist():
                _check_member(archive, name, source)
    except zipfile.BadZipFile as error:
        raise _damaged(source, str(error)) from error
    try:
        return from_exported_program(torch.export.load(source), manifest)
    except HopyardError:
        raise
    except Exception as error:
        raise _damaged(source, f"{type(error).__name__}: {error}") from error


def _manifest(archive: zipfile.ZipFile, source: Path) -> Manifest:
    members = [name for name in archive.namelist() if name.endswith(f"/extra/{MANIFEST}")]
    if not members:
        raise ArtifactError(
            f"{source} was not saved by hopyard",
            hint="open it with torch.export.load if you trust its author",
            stage="load",
        )
    try:
        return Manifest.from_json(archive.read(members[0]).decode())
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"cannot read the manifest of {source}: {error}",
            hint="it may come from a later version of hopyard",
            stage="load",
        ) from error


def _check_plugins(manifest: Manifest, hops: Mapping[str, object]) -> None:
    for name in manifest.hops:
        if name in hops:
            continue
        slug = name.partition("__")[0].replace("_", "-")
        distributions = {item.plugin: item.distribution for item in manifest.plugins}
        raise UnknownNameError(
            "higher-order operator",
            name,
            hops,
            distribution=distributions.get(slug, f"hopyard-{slug}"),
        )


def _check_member(archive: zipfile.ZipFile, name: str, source: Path) -> None:
    if any(part in f"/{name}" for part in _NATIVE):
        raise ArtifactError(f"{source} contains native code ({name})", stage="load")
    if name.endswith("_config.json"):
        for entry in _pickled_entries(json.loads(archive.read(name))):
            folder = name.rpartition("/")[0]
            _check_pickle(archive.read(f"{folder}/{entry}"), entry, source)
    if name.endswith(".pt"):
        _check_pickle(archive.read(name), name, source)


def _pickled_entries(config: Mapping[str, Any]) -> Iterator[str]:
    for entry in config.get("config", {}).values():
        if entry.get("use_pickle") or entry.get("tensor_meta") is None:
            yield entry["path_name"]


def _check_pickle(content: bytes, name: str, source: Path) -> None:
    if not content:
        return
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:
        raise ArtifactError(
            f"{source} would run code when loaded: its member {name} holds more than plain values",
            hint="do not open it unless you trust its author",
            stage="load",
        ) from error


def _refuse_modules(program: Program) -> None:
    graph_module = program.graph_module
    for node in graph_module.graph.find_nodes(op="get_attr"):
        value = getattr(graph_module, str(node.target))
        if isinstance(value, torch.nn.Module) and not isinstance(value, GraphModule):
            raise ArtifactError(
                f"the program holds {node.target}, a {type(value).__name__}, which a .pt2 file cannot",
                hint="save the program as it was before it was delegated",
                stage="save",
            )


def _hop_names(graph_module: GraphModule) -> set[str]:
    return {
        node.target.name()
        for module in graph_module.modules()
        if isinstance(module, GraphModule)
        for node in module.graph.nodes
        if isinstance(node.target, HigherOrderOperator)
    }


def _damaged(source: Path, why: str) -> ArtifactError:
    return ArtifactError(
        f"cannot read {source}: {why}",
        hint="the file is damaged or incomplete; save the program again",
        stage="load",
    )


@contextlib.contextmanager
def _replacing(destination: Path) -> Iterator[str]:
    """Yield a path beside `destination` that becomes it when the block ends without an error."""
    # torch names the archive's top folder after the file, so the temporary file has the final name.
    with tempfile.TemporaryDirectory(prefix=".hopyard-", dir=destination.parent) as folder:
        temporary = Path(folder) / destination.name
        yield str(temporary)
        os.replace(temporary, destination)
