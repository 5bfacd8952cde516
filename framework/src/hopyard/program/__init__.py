"""Programs: captured graphs with their calling convention and state."""

from __future__ import annotations

from ._artifact import load_program as load_program
from ._calling import CallingConvention as CallingConvention
from ._calling import InputLeaf as InputLeaf
from ._calling import TensorType as TensorType
from ._capture import CaptureOptions as CaptureOptions
from ._capture import capture as capture
from ._editing import StateEditor as StateEditor
from ._export import from_exported_program as from_exported_program
from ._listing import FileListing as FileListing
from ._listing import Listed as Listed
from ._listing import list_file as list_file
from ._manifest import Manifest as Manifest
from ._program import Program as Program
from ._purify import functionalized as functionalized
