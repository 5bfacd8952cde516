"""What a file may contain: no more than saving writes, and nothing that torch would execute.

torch's reader unpickles sample inputs, tensor subclasses and custom objects; it evaluates symbolic
expressions, imports modules that calling conventions name, and compiles names of nodes as source.
Our programs need none of this but expressions, which must be arithmetic. So everything is read and
checked here, and torch is given the values that were checked: it never sees the file, whose
directory it might read differently.
"""

from __future__ import annotations

import builtins
import json
import os
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

from ._expressions import is_arithmetic

GRAPH = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
SAMPLE_INPUTS = "data/sample_inputs/model.pt"
EXTRA = "extra/"
DESCRIPTIONS = (GRAPH, WEIGHTS, CONSTANTS)
"""The members that are JSON of torch's schema."""

_NATIVE = ("data/aotinductor/", "data/executorch/")
_MEMBER = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
    rf"|{re.escape(GRAPH)}|{re.escape(SAMPLE_INPUTS)}|{re.escape(WEIGHTS)}|{re.escape(CONSTANTS)}"
    r"|data/weights/weight_[0-9]+|data/constants/tensor_[0-9]+|extra/[\w-]+(\.[\w-]+)*"
)
_TENSOR = re.compile(r"(weight|tensor)_[0-9]+")
_OPERATOR = re.compile(
    r"torch\.ops(\.\w+){2,3}"
    r"|_operator\.(getitem|eq|ne|le|ge|lt|gt|neg|pos|mul|add|sub|floordiv|mod|pow|truediv|and_|or_"
    r"|lshift|rshift)"
    r"|math\.trunc|torch\.sym_(not|int|float|ite|max|min|sqrt)",
    re.ASCII,
)
_NAMES = ("name", "as_name")
_FACTORIES = ("bool", "dict", "float", "int", "list", "set", "str", "tuple")


class Untrusted(Exception):
    """An archive holds something that torch could execute, or might."""


def read_members(archive: zipfile.ZipFile, *, native: bool = False) -> dict[str, bytes]:
    """Return what an archive contains besides tensors, by name without the top folder.

    Args:
        archive: The archive.
        native: Whether to leave out native code instead of refusing it.

    Raises:
        Untrusted: It has a member that saving does not write, or one twice.
    """
    entries = archive.infolist()
    available = os.fstat(archive.fp.fileno()).st_size if archive.fp is not None else 0
    if sum(entry.file_size for entry in entries) > available:
        raise Untrusted("its members say that they are larger than the file")
    members: dict[str, bytes] = {}
    seen: set[str] = set()
    root = root_of(archive)
    for entry in entries:
        folder, _, name = entry.filename.partition("/")
        if name.startswith(_NATIVE):
            if native:
                continue
            raise Untrusted(f"{name} is native code, which is accepted with trust=True only")
        if folder != root or not _MEMBER.fullmatch(name) or name in seen:
            raise Untrusted(f"{entry.filename} is no member that hopyard writes")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise Untrusted(f"{entry.filename} is a link")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise Untrusted(f"{entry.filename} is compressed, which hopyard never does")
        seen.add(name)
        if not _TENSOR.fullmatch(name.rpartition("/")[2]):
            members[name] = archive.read(entry)
    if members.get(SAMPLE_INPUTS):
        raise Untrusted(f"{SAMPLE_INPUTS} is a pickle")
    return members


def root_of(archive: zipfile.ZipFile) -> str:
    """Return the folder that all members are in."""
    return archive.namelist()[0].partition("/")[0]


def check_descriptions(descriptions: Mapping[str, Any]) -> None:
    """Refuse an archive that torch could not read without executing something in it.

    Args:
        descriptions: What the JSON of :data:`DESCRIPTIONS` stands for.

    Raises:
        Untrusted: It holds a pickle, an expression, an import, or a name or operator that is none.
    """
    for member in (WEIGHTS, CONSTANTS):
        for name, entry in descriptions[member]["config"].items():
            if entry.get("use_pickle") is not False or not _TENSOR.fullmatch(entry["path_name"]):
                raise Untrusted(f"{name} in {member} is a pickle")
    for member in DESCRIPTIONS:
        try:
            _check_items(descriptions[member])
        except Untrusted as error:
            raise Untrusted(f"{member}: {error}") from error


def container_types(graph: Any) -> set[str]:
    """Return the containers that the calling conventions of a checked description are made of."""
    names: set[str] = set()
    for key, value in _items(graph):
        if key in ("in_spec", "out_spec") and isinstance(value, str):
            found = _items(json.loads(value))
            names.update(str(name) for key, name in found if key == "type" and name is not None)
    return names


def _check_items(content: Any) -> None:
    for key, value in _items(content):
        if key == "as_expr" and not _is_expression(value):
            raise Untrusted("it contains an expression that is no arithmetic, to be evaluated")
        if key == "guards_code" and value:
            raise Untrusted("it contains source code of guards")
        if not isinstance(value, str):
            continue
        if key in _NAMES and value and not value.isidentifier():
            raise Untrusted(f"{value!r} is no name")
        if key in ("target", "as_operator") and not _OPERATOR.fullmatch(value):
            raise Untrusted(f"{value!r} is no operator")
        if key in ("in_spec", "out_spec"):
            _check_spec(json.loads(value))


def _is_expression(value: Any) -> bool:
    text = value.get("expr_str") if isinstance(value, dict) else None
    return isinstance(text, str) and is_arithmetic(text)


def _check_spec(spec: Any) -> None:
    """Refuse a calling convention for which torch would import a module."""
    for key, value in _items(spec):
        if key == "__enum__":
            raise Untrusted("the calling convention names an enumeration to import")
        if key == "default_factory_module" and value != builtins.__name__:
            raise Untrusted(f"the calling convention imports {value}")
        if key == "default_factory_name" and value not in _FACTORIES:
            raise Untrusted(f"the calling convention calls {value}")
        if key == "context" and isinstance(value, str):
            # Most contexts are JSON of their own; a name that is not is read as it stands.
            try:
                nested = json.loads(value)
            except ValueError:
                continue
            _check_spec(nested)


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key with its value, however deep."""
    pending = [value]
    while pending:
        current = pending.pop()
        if isinstance(current, dict):
            yield from current.items()
            pending.extend(current.values())
        elif isinstance(current, list | tuple):
            pending.extend(current)
