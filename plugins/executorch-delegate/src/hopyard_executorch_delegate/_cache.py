"""Lowered partitions on disk, found by what they were made from.

An entry is one file, named after a digest of everything its bytes depend on, and is put in place
whole: writers of one entry, in any number of processes, replace each other's equal files. An entry
that is damaged is as good as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hopyard.errors import ArtifactError

from ._values import Content, UnstorableError, pack, unpack

_SUFFIX = ".hopyard-lowered"
_FORMAT = 1


class CacheWarning(UserWarning):
    """A lowered partition could not be read from its cache, or not be kept in it."""


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder of lowered partitions.

    Attributes:
        folder: Where they are; it is made when the first is kept.
    """

    folder: Path

    def get(self, key: str, backend: str, partition: str) -> Content | None:
        """Return the entry of `key`, or None with a warning if it cannot be read.

        Args:
            key: What :func:`key_of` returned.
            backend: The backend that it must be of.
            partition: How to call the partition in the warning.
        """
        path = self._path(key)
        try:
            content = unpack(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ArtifactError) as error:
            why = error.message if isinstance(error, ArtifactError) else str(error)
        else:
            if content.backend_id == backend:
                return content
            why = f"it is of the backend {content.backend_id!r}"
        _warn(f"{path} is of no use to the backend {backend!r}: {why}; {partition} is lowered anew")
        return None

    def put(self, key: str, content: Content, partition: str) -> None:
        """Keep an entry, whole or not at all; that it cannot be kept is a warning."""
        path = self._path(key)
        try:
            packed = pack(content)
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(suffix=".part", prefix=key[:8], dir=self.folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(packed)
                os.replace(temporary, path)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)
                raise
        except (OSError, UnstorableError) as error:
            _warn(f"{partition} of the backend {content.backend_id!r} is not kept: {error}")

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"


def key_of(content: str, backend: str, made_by: str, options: Mapping[str, Any]) -> str:
    """Return the name of an entry.

    Args:
        content: The digest of the partition.
        backend: The backend's name.
        made_by: The backend's version and whatever else its bytes depend on.
        options: What the partition is lowered with.
    """
    written = sorted((name, repr(value)) for name, value in options.items())
    parts = [_FORMAT, content, backend, made_by, str(torch.__version__), written]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _warn(message: str) -> None:
    warnings.warn(message, CacheWarning, stacklevel=2)
