"""A lowered partition as one run of bytes, for caches and files.

::

    "hopyard-lowered 1" and a newline, length of the header (8 bytes), header (JSON), blobs,
    SHA-256 of it all

The header says what the blobs are. Nothing in it is executed when it is read.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hopyard.errors import ArtifactError

_MAGIC = b"hopyard-lowered "
_VERSION = 1
_LENGTH = 8
_DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True, slots=True)
class Content:
    """A lowered partition without its graph.

    Attributes:
        backend_id: The backend's name.
        processed_bytes: What the backend's runtime reads.
        compile_specs: Options the partition was lowered with.
        named_data: Blobs shared between partitions, by name.
        meta: Anything else the backend wants to travel with the partition.
        baked: For each operand whose values are part of the bytes, its position and their digest.
    """

    backend_id: str
    processed_bytes: bytes
    compile_specs: Mapping[str, Any]
    named_data: Mapping[str, bytes]
    meta: Mapping[str, Any]
    baked: Mapping[int, str]


class UnstorableError(Exception):
    """A value that the form has no place for."""


def pack(content: Content) -> bytes:
    """Return what :func:`unpack` reads.

    Raises:
        UnstorableError: A value in it is neither what JSON has nor bytes.
    """
    header = {
        "backend": content.backend_id,
        "size": len(content.processed_bytes),
        "compile_specs": _written(content.compile_specs),
        "named_data": [[name, len(blob)] for name, blob in content.named_data.items()],
        "meta": _written(content.meta),
        "baked": [[position, digest] for position, digest in content.baked.items()],
    }
    text = json.dumps(header, allow_nan=False).encode()
    parts = [
        _MAGIC + f"{_VERSION}\n".encode(),
        len(text).to_bytes(_LENGTH, "little"),
        text,
        content.processed_bytes,
        *content.named_data.values(),
    ]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return b"".join([*parts, digest.digest()])


def unpack(packed: bytes) -> Content:
    """Read what :func:`pack` wrote.

    Raises:
        ArtifactError: It is damaged, truncated, or of a later version.
    """
    line, _, rest = packed[: len(_MAGIC) + 20].partition(b"\n")
    if not line.startswith(_MAGIC) or not rest:
        raise _damaged("it is no lowered partition")
    if line != _MAGIC + str(_VERSION).encode():
        raise _damaged(f"it is of version {line[len(_MAGIC) :].decode(errors='replace')}")
    if hashlib.sha256(packed[:-_DIGEST]).digest() != packed[-_DIGEST:]:
        raise _damaged("its checksum is wrong")
    start = len(line) + 1 + _LENGTH
    length = int.from_bytes(packed[start - _LENGTH : start], "little")
    try:
        header = json.loads(packed[start : start + length])
        sizes = [header["size"], *(size for _, size in header["named_data"])]
        blobs = list(_cut(packed, start + length, sizes))
        return Content(
            str(header["backend"]),
            blobs[0],
            _read(header["compile_specs"]),
            dict(zip((str(name) for name, _ in header["named_data"]), blobs[1:], strict=True)),
            _read(header["meta"]),
            {int(position): str(digest) for position, digest in header["baked"]},
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(f"{type(error).__name__}: {error}") from error


def _cut(packed: bytes, start: int, sizes: list[int]) -> Any:
    for size in sizes:
        yield packed[start : start + size]
        start += size
    if start != len(packed) - _DIGEST:
        raise ValueError("its parts are not as long as it says")


def _written(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes | bytearray):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, tuple):
        return {"tuple": [_written(item) for item in value]}
    if isinstance(value, list):
        return [_written(item) for item in value]
    if isinstance(value, Mapping):
        # A list of pairs, since the keys of a JSON object are text only.
        return {"map": [[_written(key), _written(item)] for key, item in value.items()]}
    raise UnstorableError(f"a {type(value).__name__}")


def _read(form: Any) -> Any:
    if isinstance(form, list):
        return [_read(item) for item in form]
    if not isinstance(form, dict):
        return form
    ((kind, content),) = form.items()
    if kind == "bytes":
        return base64.b64decode(content, validate=True)
    if kind == "tuple":
        return tuple(_read(item) for item in content)
    if kind == "map":
        return {_read(key): _read(item) for key, item in content}
    raise ValueError(f"{kind!r} is no kind of value")


def _damaged(why: str) -> ArtifactError:
    return ArtifactError(
        f"cannot read a lowered partition: {why}", hint="delegate the program again", stage="read"
    )
