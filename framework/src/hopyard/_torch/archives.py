"""Archives of exported programs: their schema, and from graphs to it and back."""

from __future__ import annotations

from torch import _C
from torch._export.serde import schema as _schema
from torch._export.serde.schema import SCHEMA_VERSION as SCHEMA_VERSION
from torch._export.serde.schema import ExportedProgram as WrittenProgram
from torch._export.serde.schema import PayloadConfig as TensorEntries
from torch._export.serde.schema import PayloadMeta as TensorEntry
from torch._export.serde.schema import SchemaVersion as SchemaVersion
from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE as DTYPES_IN_FILES
from torch._export.serde.serialize import ExportedProgramDeserializer as ProgramReader
from torch._export.serde.serialize import GraphModuleSerializer as GraphWriter
from torch._export.serde.serialize import serialize_range_constraints as write_ranges
from torch._export.serde.serialize import serialize_tensor_meta as write_meta
from torch._export.serde.union import _Union as Union
from torch.export.pt2_archive._package import PT2ArchiveWriter as ArchiveWriter
from torch.export.pt2_archive.constants import ARCHIVE_FORMAT_VALUE as ARCHIVE_FORMAT
from torch.export.pt2_archive.constants import ARCHIVE_VERSION_VALUE as ARCHIVE_VERSION

SCHEMA_NAMES = vars(_schema)
"""What annotations in the schema refer to."""

operator_version = _C._get_max_operator_version
"""Returns the version of the set of aten's operators."""

__all__ = [
    "ARCHIVE_FORMAT",
    "ARCHIVE_VERSION",
    "DTYPES_IN_FILES",
    "SCHEMA_NAMES",
    "SCHEMA_VERSION",
    "ArchiveWriter",
    "GraphWriter",
    "ProgramReader",
    "SchemaVersion",
    "TensorEntries",
    "TensorEntry",
    "Union",
    "WrittenProgram",
    "operator_version",
    "write_meta",
    "write_ranges",
]
