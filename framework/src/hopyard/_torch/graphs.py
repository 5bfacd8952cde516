"""fx graphs: metadata, lazily generated code, pytree calling conventions."""

from __future__ import annotations

from torch._C import _fx_map_arg as map_nodes
from torch._C import _NodeBase as NodeBase
from torch.fx._lazy_graph_module import _LazyGraphModule as LazyGraphModule
from torch.fx._lazy_graph_module import _make_graph_module as make_graph_module
from torch.fx.experimental import _config as fx_settings
from torch.fx.graph import _PyTreeCodeGen as PyTreeCodeGen
from torch.fx.graph import _PyTreeInfo as PyTreeInfo
from torch.fx.passes.infra.pass_base import PassResult as TorchPassResult
from torch.fx.passes.shape_prop import TensorMetadata as TensorMetadata
from torch.fx.passes.shape_prop import _extract_tensor_metadata as extract_tensor_metadata

__all__ = [
    "LazyGraphModule",
    "NodeBase",
    "PyTreeCodeGen",
    "PyTreeInfo",
    "TensorMetadata",
    "TorchPassResult",
    "extract_tensor_metadata",
    "fx_settings",
    "make_graph_module",
    "map_nodes",
]
