"""What a file may contain: no more than saving writes, and nothing that torch would execute.

torch's reader unpickles sample inputs, tensor subclasses and custom objects; it evaluates symbolic
expressions, imports modules that calling conventions name, and compiles names of nodes as source.
Our programs need none of this but expressions, which must be arithmetic. So everything is read and
checked here, and torch is given a new archive of what was checked: it never sees the file, whose
directory it might read differently.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

from ._expressions import is_arithmetic

GRAPH = "models/model.json"
_EXTRA = "extra/"
_SAMPLE_INPUTS = "data/sample_inputs/model.pt"
_WEIGHTS = "data/weights/model_weights_config.json"
_CONSTANTS = "data/constants/model_constants_config.json"
_NATIVE = ("data/aotinductor/", "data/executorch/")
_MEMBER = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
    rf"|{re.escape(GRAPH)}|{re.escape(_SAMPLE_INPUTS)}|{re.escape(_WEIGHTS)}|{re.escape(_CONSTANTS)}"
    r"|data/weights/weight_[0-9]+|data/constants/tensor_[0-9]+|extra/.+"
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


def read_members(
    archive: zipfile.ZipFile, *, tensors: bool = True, native: bool = False
) -> dict[str, bytes]:
    """Return what an archive contains, by name without the top folder.

    Args:
        archive: The archive.
        tensors: Whether to read tensors, too.
        native: Whether to leave out native code instead of refusing it.

    Raises:
        Untrusted: It has a member that saving does not write, or one twice.
    """
    entries = archive.infolist()
    available = os.fstat(archive.fp.fileno()).st_size if archive.fp is not None else 0
    if sum(entry.file_size for entry in entries) > available:
        raise Untrusted("its members say that they are larger than the file")
    members: dict[str, bytes] = {}
    root = archive.namelist()[0].partition("/")[0]
    for entry in entries:
        folder, _, name = entry.filename.partition("/")
        if name.startswith(_NATIVE):
            if native:
                continue
            raise Untrusted(f"{name} is native code, which is accepted with trust=True only")
        if folder != root or not _MEMBER.fullmatch(name) or name in members:
            raise Untrusted(f"{entry.filename} is no member that hopyard writes")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise Untrusted(f"{entry.filename} is a link")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise Untrusted(f"{entry.filename} is compressed, which hopyard never does")
        is_tensor = _TENSOR.fullmatch(name.rpartition("/")[2])
        members[name] = archive.read(entry) if tensors or not is_tensor else b""
    return members


def check_members(members: Mapping[str, bytes]) -> None:
    """Refuse an archive that torch could not read without executing something in it.

    Raises:
        Untrusted: It holds a pickle, an expression, an import, or a name or operator that is none.
    """
    if members.get(_SAMPLE_INPUTS):
        raise Untrusted(f"{_SAMPLE_INPUTS} is a pickle")
    for config in (_WEIGHTS, _CONSTANTS):
        for name, entry in json.loads(members[config])["config"].items():
            if entry.get("use_pickle") is not False or not _TENSOR.fullmatch(entry["path_name"]):
                raise Untrusted(f"{name} in {config} is a pickle")
        _check_json(members[config], config)
    _check_json(members[GRAPH], GRAPH)


def container_types(members: Mapping[str, bytes]) -> set[str]:
    """Return the containers that the calling conventions of a checked archive are made of."""
    names: set[str] = set()
    for key, value in _items(json.loads(members[GRAPH])):
        if key in ("in_spec", "out_spec") and isinstance(value, str):
            found = _items(json.loads(value))
            names.update(str(name) for key, name in found if key == "type" and name is not None)
    return names


def repack(members: Mapping[str, bytes]) -> io.BytesIO:
    """Return an archive of checked members for torch to read."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            if not name.startswith(_EXTRA):
                archive.writestr(f"program/{name}", content)
    buffer.seek(0)
    return buffer


def _check_json(content: bytes, member: str) -> None:
    try:
        _check_items(json.loads(content))
    except Untrusted as error:
        raise Untrusted(f"{member}: {error}") from error


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
        elif isinstance(current, list):
            pending.extend(current)
