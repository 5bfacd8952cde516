"""torch's archive of an exported program, written and read with torch's schema.

torch's own functions for this check what they wrote by making it anew, and hand files to readers
that unpickle. What is written here is what they write; what is read is given to torch as values
that have been checked.
"""

from __future__ import annotations

import json
import threading
import zipfile
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torch.export import ExportedProgram

from .._torch.archives import (
    ARCHIVE_FORMAT,
    ARCHIVE_VERSION,
    SCHEMA_VERSION,
    ArchiveWriter,
    GraphWriter,
    ProgramReader,
    SchemaVersion,
    WrittenProgram,
    operator_version,
    write_ranges,
)
from ._expressions import read_arithmetic
from ._schema import SchemaReader, plain
from ._tensors_file import read_tensors, write_tensors
from ._vetting import (
    CONSTANTS,
    DESCRIPTIONS,
    EXTRA,
    GRAPH,
    SAMPLE_INPUTS,
    WEIGHTS,
    check_descriptions,
    root_of,
)

_FORMATS: Final = {
    "archive_format": (ARCHIVE_FORMAT,),
    "archive_version": (ARCHIVE_VERSION,),
    ".data/version": ("6", "6\n"),
}
"""What the members say in which an archive names its format."""

_READING = threading.Lock()
"""torch's reader keeps its state in a global and fails if two threads use it."""


def write_archive(path: str, exported: ExportedProgram, beside: Mapping[str, str | bytes]) -> None:
    """Write a program that has been verified, and further members beside it.

    Raises:
        ArtifactError: A tensor has no plain bytes.
        Untrusted: It holds what reading would refuse.
    """
    with ArchiveWriter(path) as archive:
        weights = write_tensors(exported.state_dict, archive, "data/weights/weight_")
        constants = write_tensors(exported.constants, archive, "data/constants/tensor_")
        written = {GRAPH: _written(exported), WEIGHTS: weights, CONSTANTS: constants}
        texts = {name: json.dumps(plain(value), allow_nan=False) for name, value in written.items()}
        check_descriptions({name: json.loads(text) for name, text in texts.items()})
        for name, text in texts.items():
            archive.write_string(name, text)
        archive.write_bytes(SAMPLE_INPUTS, b"")
        for name, content in beside.items():
            data = content.encode() if isinstance(content, str) else content
            archive.write_bytes(EXTRA + name, data)


def parsed_descriptions(members: Mapping[str, bytes]) -> dict[str, Any]:
    """Return what the members stand for that are JSON.

    Raises:
        KeyError, ValueError: One is missing or is none, or the archive is of another format.
    """
    for name, known in _FORMATS.items():
        if members[name].decode() not in known:
            raise ValueError(f"{name} is {members[name][:40]!r} instead of {known[0]!r}")
    return {name: json.loads(members[name]) for name in DESCRIPTIONS}


def read_archive(descriptions: Mapping[str, Any], archive: zipfile.ZipFile) -> ExportedProgram:
    """Return the program of checked descriptions, with the tensors of an archive.

    Raises:
        Exception: They are damaged, or of another version.
    """
    written = SchemaReader(read_arithmetic).read(WrittenProgram, descriptions[GRAPH])
    state, constants = (_tensors(descriptions, name, archive) for name in (WEIGHTS, CONSTANTS))
    with _READING:
        return ProgramReader().deserialize(written, state, constants)


def _tensors(
    descriptions: Mapping[str, Any], member: str, archive: zipfile.ZipFile
) -> dict[str, Tensor]:
    folder = f"{root_of(archive)}/{member.rpartition('/')[0]}/"
    return read_tensors(descriptions[member]["config"], archive, folder)


def _written(exported: ExportedProgram) -> WrittenProgram:
    graph = GraphWriter(exported.graph_signature, exported.module_call_graph)
    major, minor = SCHEMA_VERSION
    return WrittenProgram(
        graph_module=graph.serialize(exported.graph_module),
        opset_version={"aten": operator_version()},
        range_constraints=write_ranges(exported.range_constraints),
        schema_version=SchemaVersion(major=major, minor=minor),
        verifiers=[verifier.dialect for verifier in exported.verifiers],
        torch_version=str(torch.__version__),
    )
