"""Programs on disk.

A `.pt2` file is torch's own archive with one more member, the manifest. torch executes pickles and
more when it reads an archive; a file that holds anything of the kind is refused before that.
"""

from __future__ import annotations

import contextlib
import operator
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import GraphModule

from .._torch.dispatch import HigherOrderOperator, higher_order_operators
from .._torch.pytree import registered_containers
from ..errors import ArtifactError, HopyardError, UnknownNameError
from ._abandoned import PREFIX, in_use, remove_abandoned
from ._archive import parsed_descriptions, read_archive, write_archive
from ._calling_file import read_calling, write_calling
from ._export import from_exported_program, to_exported_program
from ._manifest import Manifest
from ._modules_file import Restore, member_contents, read_modules, write_modules
from ._origins_file import read_origins, write_origins
from ._savable import refuse_unsavable
from ._vetting import EXTRA, GRAPH, Untrusted, check_descriptions, container_types, read_members

if TYPE_CHECKING:
    from ._program import Program

MANIFEST = "hopyard.json"
"""Name of the member that holds the manifest."""

CALLING = "hopyard-calling.json"
"""Name of the member that holds what torch's archive has no place for."""

ORIGINS = "hopyard-origins.json"
"""Name of the member that tells which passes made which nodes; only there if passes made some."""

_MANIFEST_MEMBER = f"extra/{MANIFEST}"
_CALLING_MEMBER = f"extra/{CALLING}"
_ORIGINS_MEMBER = f"extra/{ORIGINS}"


def save_program(program: Program, path: str | PathLike[str]) -> None:
    """Write `program` to `path`; an existing file is replaced only by a complete one.

    Raises:
        ArtifactError: The file cannot be written, or the program holds what cannot be saved.
    """
    destination = Path(path)
    refuse_unsavable(program)
    program, modules = write_modules(program)
    writable, calling = write_calling(program)
    exported = to_exported_program(writable)
    _give_tuples(exported.graph_module)
    manifest = Manifest(
        program.manifest.hopyard,
        program.manifest.torch,
        program.manifest.plugins,
        tuple(sorted(_hop_names(program.graph_module))),
    )
    try:
        with _replacing(destination) as temporary:
            beside = {MANIFEST: manifest.to_json(), CALLING: calling, **modules}
            if origins := write_origins(program.graph_module):
                beside[ORIGINS] = origins
            write_archive(temporary, exported, beside)
    except HopyardError:
        raise
    except Exception as error:
        first_line = str(error).partition("\n")[0]
        raise ArtifactError(
            f"cannot write {destination}: {first_line}",
            hint="check the folder, the free space and the types of values in the graph",
            stage="save",
        ) from error


def load_program(
    path: str | PathLike[str],
    hops: Mapping[str, object],
    status_of: Callable[[str], str] = lambda distribution: "",
    *,
    trust: bool = False,
    restore: Restore | None = None,
) -> Program:
    """Read a program.

    Args:
        path: A `.pt2` file.
        hops: The higher-order operators at hand, by name.
        status_of: Why the plugin of an installed distribution takes no part, as a word; "" if it
            does or is not installed.
        trust: Whether the file may hold native code as well. It is left alone, never run.
        restore: Makes what is no graph again; without it, such modules are left as graphs.

    Raises:
        ArtifactError: The file is missing, damaged, of another kind, or contains code.
        UnknownNameError: It needs a plugin that takes no part; the message says which.
    """
    source = Path(path)
    if not source.is_file():
        raise ArtifactError(f"there is no file {source}", stage="load")
    manifest: Manifest | None = None
    try:
        with zipfile.ZipFile(source) as archive:
            _refuse_others(archive, source)
            members = read_members(archive, native=trust)
            manifest = _manifest(members, source)
            _check_byte_order(members, source)
            _check_plugins(manifest, hops, status_of)
            descriptions = parsed_descriptions(members)
            check_descriptions(descriptions)
            _check_containers(descriptions[GRAPH], source)
            exported = read_archive(descriptions, archive)
        program = from_exported_program(exported, manifest, copy=False)
        _check_tensors(program)
        _drop_unused_items(program.graph_module)
        if _ORIGINS_MEMBER in members:
            read_origins(program.graph_module, members[_ORIGINS_MEMBER].decode())
        contents = member_contents(members, EXTRA)
        if contents and restore is not None:
            read_modules(program, contents, restore)
        return read_calling(program, members[_CALLING_MEMBER].decode())
    except Untrusted as error:
        raise ArtifactError(
            f"{source} could run code when loaded: {error}",
            hint="do not open it unless you trust its author",
            stage="load",
        ) from error
    except HopyardError:
        raise
    except Exception as error:
        raise _damaged(source, f"{type(error).__name__}: {error}", manifest) from error


def _check_tensors(program: Program) -> None:
    """Refuse parameters, buffers and constants that the graph was not made for.

    Raises:
        ValueError: One has another shape or type.
    """
    held = {**program.state, **program.constants}
    placeholders = {node.name: node for node in program.graph.find_nodes(op="placeholder")}
    for spec in program.signature.input_specs:
        value = held.get(str(spec.target))
        expected = placeholders[spec.arg.name].meta.get("val")
        if not isinstance(value, torch.Tensor) or not isinstance(expected, torch.Tensor):
            continue
        if (value.shape, value.dtype) != (expected.shape, expected.dtype):
            raise ValueError(
                f"{spec.target} is {value.dtype} of shape {list(value.shape)} "
                f"where the graph has {expected.dtype} of shape {list(expected.shape)}"
            )


def _drop_unused_items(graph_module: GraphModule) -> None:
    """Remove the items that torch reads from every container, whether the graph had them or not."""
    for module in graph_module.modules():
        if not isinstance(module, GraphModule):
            continue
        for node in module.graph.find_nodes(op="call_function", target=operator.getitem):
            if not node.users:
                module.graph.erase_node(node)
        module.recompile()


def _refuse_others(archive: zipfile.ZipFile, source: Path) -> None:
    if not any(name.endswith(f"/{_MANIFEST_MEMBER}") for name in archive.namelist()):
        raise ArtifactError(
            f"{source} was not saved by hopyard",
            hint="open it with torch.export.load if you trust its author",
            stage="load",
        )


def _manifest(members: Mapping[str, bytes], source: Path) -> Manifest:
    try:
        return Manifest.from_json(members[_MANIFEST_MEMBER].decode())
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"cannot read the manifest of {source}: {error}",
            hint="it may come from a later version of hopyard",
            stage="load",
        ) from error


def _check_plugins(
    manifest: Manifest, hops: Mapping[str, object], status_of: Callable[[str], str]
) -> None:
    for name in manifest.hops:
        if name in hops or _is_of_torch(name):
            continue
        slug = name.partition("__")[0].replace("_", "-")
        distributions = {item.plugin: item.distribution for item in manifest.plugins}
        distribution = distributions.get(slug, f"hopyard-{slug}")
        raise UnknownNameError(
            "higher-order operator",
            name,
            hops,
            distribution=distribution,
            status=status_of(distribution),
        )


def _check_containers(graph: Any, source: Path) -> None:
    """Refuse inputs and results whose containers torch does not know in this process."""
    for name in container_types(graph):
        if name not in registered_containers:
            raise ArtifactError(
                f"{source} takes or returns a {name}, which is not registered with torch here",
                hint=f"import the module that registers it, perhaps {name.rpartition('.')[0]}, "
                "before loading",
                stage="load",
            )


def _is_of_torch(name: str) -> bool:
    found = higher_order_operators.get(name)
    return found is not None and type(found).__module__.partition(".")[0] == "torch"


def _give_tuples(graph_module: GraphModule) -> None:
    """Let regions that return lists return tuples, which are what torch's format has."""
    for module in graph_module.modules():
        if not isinstance(module, GraphModule):
            continue
        for node in module.graph.nodes:
            value = node.meta.get("val")
            if isinstance(node.target, HigherOrderOperator) and type(value) is list:
                node.meta["val"] = tuple(value)


def _hop_names(graph_module: GraphModule) -> set[str]:
    return {
        node.target.name()
        for module in graph_module.modules()
        if isinstance(module, GraphModule)
        for node in module.graph.nodes
        if isinstance(node.target, HigherOrderOperator)
    }


def _check_byte_order(members: Mapping[str, bytes], source: Path) -> None:
    """Refuse numbers that torch would read in the wrong order of bytes."""
    order = members["byteorder"].decode()
    if order != sys.byteorder:
        raise ArtifactError(
            f"{source} was saved on a machine of byte order {order!r}, this one's is "
            f"{sys.byteorder!r}",
            hint="save the program on a machine like this one",
            stage="load",
        )


def _damaged(source: Path, why: str, manifest: Manifest | None) -> ArtifactError:
    hint = "the file is damaged or incomplete; save the program again"
    if manifest is not None and manifest.torch != torch.__version__:
        hint = (
            f"it was saved with torch {manifest.torch} and this is {torch.__version__}; use that "
            "version, or save the program again"
        )
    return ArtifactError(f"cannot read {source}: {why}", hint=hint, stage="load")


@contextlib.contextmanager
def _replacing(destination: Path) -> Iterator[str]:
    """Yield a path beside `destination` that becomes it when the block ends without an error."""
    remove_abandoned(destination.parent)
    # torch names the archive's top folder after the file, so the temporary file has the final name.
    with (
        tempfile.TemporaryDirectory(prefix=PREFIX, dir=destination.parent) as folder,
        in_use(Path(folder)),
    ):
        temporary = Path(folder) / destination.name
        yield str(temporary)
        os.replace(temporary, destination)
