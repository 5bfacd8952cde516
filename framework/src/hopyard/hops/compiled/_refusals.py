"""What Dynamo says of a program that it cannot read, in our words."""

from __future__ import annotations

import re
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from hopyard_hookspecs import SourceLocation

_FRAME = re.compile(r'File "(.+)", line (\d+), in (.+)')
_LIBRARIES = (str(Path(torch.__file__).parent), str(Path(__file__).parents[2]))
_STANDARD_LIBRARY = sysconfig.get_paths()["stdlib"]


def reason_of(text: str) -> str:
    """Return Dynamo's summary and explanation without its hints, which concern torch.compile."""
    words = " ".join(text.split("Hint:")[0].split("Developer debug context:")[0].split())
    return words.replace(" Explanation:", ":").rstrip(".")


def line_of(stack: Iterable[traceback.FrameSummary] | None) -> SourceLocation | None:
    """Return the innermost line of a stack that is the user's: not Python's, torch's or ours."""
    own = [frame for frame in stack or () if not _is_library(frame.filename)]
    return SourceLocation(own[-1].filename, own[-1].lineno or 0, own[-1].name) if own else None


def _is_library(file: str) -> bool:
    if file.startswith(_STANDARD_LIBRARY):
        return "site-packages" not in file
    return file.startswith(_LIBRARIES) or Path(file).parent.name.startswith("hopyard_")


def line_of_node(node: Any) -> SourceLocation | None:
    """Return the innermost line of the user's that a node of a graph comes from."""
    trace = "" if node is None else node.meta.get("stack_trace") or ""
    frames = [
        traceback.FrameSummary(file, int(line), name) for file, line, name in _FRAME.findall(trace)
    ]
    return line_of(frames)
