"""fx graphs: metadata, lazily generated code, pytree calling conventions."""

from __future__ import annotations

from torch.fx._lazy_graph_module import _LazyGraphModule as LazyGraphModule
from torch.fx._lazy_graph_module import _make_graph_module as make_graph_module
from torch.fx.graph import _PyTreeCodeGen as PyTreeCodeGen
from torch.fx.graph import _PyTreeInfo as PyTreeInfo
from torch.fx.passes.infra.partitioner import (
    CapabilityBasedPartitioner as CapabilityBasedPartitioner,
)
from torch.fx.passes.operator_support import OperatorSupportBase as OperatorSupportBase
from torch.fx.passes.shape_prop import TensorMetadata as TensorMetadata
from torch.fx.passes.shape_prop import _extract_tensor_metadata as extract_tensor_metadata
from torch.fx.passes.utils.fuser_utils import fuse_by_partitions as fuse_by_partitions

__all__ = [
    "CapabilityBasedPartitioner",
    "LazyGraphModule",
    "OperatorSupportBase",
    "PyTreeCodeGen",
    "PyTreeInfo",
    "TensorMetadata",
    "extract_tensor_metadata",
    "fuse_by_partitions",
    "make_graph_module",
]
