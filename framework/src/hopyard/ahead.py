"""Programs compiled ahead of time by AOTInductor, as bytes.

They hold native code for the machine that they were compiled on. Compiling needs a C++ compiler.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.export import ExportedProgram

from ._torch.inductor import compile_and_package, load_package
from .errors import ArtifactError

_COMPILING = threading.Lock()
"""Inductor keeps its state in globals."""


def compile_ahead(exported: ExportedProgram) -> bytes:
    """Return an exported program as native code.

    Raises:
        Exception: Whatever Inductor or the C++ compiler raises.
    """
    with tempfile.TemporaryDirectory(prefix="hopyard-ahead-") as folder:
        path = Path(folder) / "program.pt2"
        with _COMPILING:
            compile_and_package(exported, str(path))
        return path.read_bytes()


class Compiled:
    """A program that was compiled ahead of time, ready to run on any number of threads.

    Making one loads native code into this process.

    Args:
        content: What :func:`compile_ahead` returned.

    Raises:
        ArtifactError: It is damaged, or made for another machine or version of torch.
    """

    def __init__(self, content: bytes) -> None:
        # The loader unpacks the file to a place of its own.
        with tempfile.TemporaryDirectory(prefix="hopyard-ahead-") as folder:
            path = Path(folder) / "program.pt2"
            path.write_bytes(content)
            try:
                self._program: Any = load_package(str(path))
            except Exception as error:
                first_line = str(error).partition("\n")[0]
                raise ArtifactError(
                    f"cannot load a program compiled ahead of time: {first_line}",
                    hint="compile it again on this machine",
                    stage="load",
                ) from error

    def __call__(self, *inputs: Any) -> Sequence[Any]:
        """Run the program on its flat inputs and return its flat outputs."""
        outputs = self._program(*inputs)
        return tuple(outputs) if isinstance(outputs, (list, tuple)) else (outputs,)
