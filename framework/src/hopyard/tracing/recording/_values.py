"""What a node's metadata says about the value it computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_aggregate

from ..._torch.dispatch import current_transform, disable_torch_dispatch, is_transformed
from ..._torch.fake import FakeTensor, FakeTensorMode, fast_detach, is_fake
from ..._torch.graphs import extract_tensor_metadata
from ..._torch.proxies import suspend_tracing
from ..memory._fakes import FakeFactory
from ..memory._metadata import Metadata, MetadataTable
from ..memory._symbolic import SymbolicMetadata

AnyMetadata = Metadata | SymbolicMetadata


class ValueRecorder:
    """Writes `meta["val"]` and `meta["tensor_meta"]`.

    `val` is a fake tensor without autograd history: a detached alias of a fake value, or a new fake
    tensor of a real value's size and stride. One fake mode serves a whole trace.

    Args:
        fake_mode: The fake mode of the trace; None in real captures.
        direct: Whether plain tensors are described without a trip through the dispatcher.
        above_transforms: Whether values may be wrapped by function transforms, such as vmap.

    Attributes:
        metadata: The metadata seen so far.
        fakes: Makes fake tensors of the trace's fake mode.
    """

    def __init__(
        self,
        fake_mode: FakeTensorMode | None,
        *,
        direct: bool = True,
        above_transforms: bool = False,
    ) -> None:
        self._direct = direct
        self._above_transforms = above_transforms
        self._fake_mode = fake_mode or FakeTensorMode(allow_fallback_kernels=True)
        # Recipes ask for the sizes of storages, and there are none in real captures.
        self.metadata = MetadataTable(
            None if fake_mode is None else fake_mode.shape_env, storages=fake_mode is not None
        )
        self.fakes = FakeFactory(self._fake_mode)

    def annotate(self, node: Node, value: Any) -> AnyMetadata | None:
        """Describe `value` as what `node` computes; return its metadata if it is a plain tensor."""
        if not isinstance(value, Tensor):
            node.meta["val"] = self.snapshot(value)
            return None
        metadata = self.metadata_of(value)
        if metadata is not None and self._direct:
            with disable_torch_dispatch():
                self.describe(node, value, metadata)
            return metadata
        node.meta["val"] = self._snapshot(value, include_real=node.op == "placeholder")
        if isinstance(value, FakeTensor) or not value.is_sparse:
            node.meta["tensor_meta"] = extract_tensor_metadata(value)
        return metadata

    def describe(self, node: Node, value: Tensor, metadata: AnyMetadata) -> None:
        """Describe a plain tensor of known metadata as what `node` computes.

        Call it with torch's dispatch to tensor subclasses disabled.
        """
        meta = node.meta
        if type(value) is FakeTensor:
            meta["val"] = self.fakes.snapshot(value, metadata.device)
        else:
            meta["val"] = self._made(value, metadata)
        meta["tensor_meta"] = metadata.tensor_meta(value)

    def annotate_operands(self, node: Node) -> None:
        """Keep the values of a call's operands on its node.

        Compilers may change strides, and an operator that asks for exact ones needs to know what it
        was called with.
        """

        def value_of(argument: Any) -> Any:
            value = argument.meta.get("val") if isinstance(argument, Node) else None
            if isinstance(value, Tensor) and not isinstance(value, FakeTensor):
                return None
            return self.snapshot(value)

        node.meta["eager_input_vals"] = map_aggregate((node.args, node.kwargs), value_of)

    def snapshot(self, value: Any, *, include_real: bool = False) -> Any:
        """Return a description of `value` that later in-place changes do not reach.

        With `include_real`, the description of a fake tensor keeps the real one behind it.
        """
        if isinstance(value, Tensor):
            metadata = self.metadata_of(value) if self._direct and not include_real else None
            if not isinstance(metadata, Metadata):
                return self._snapshot(value, include_real=include_real)
            with disable_torch_dispatch():
                return self._made(value, metadata)
        if isinstance(value, (list, tuple)):
            return type(value)([self.snapshot(item) for item in value])
        if isinstance(value, dict):
            return {key: self.snapshot(item) for key, item in value.items()}
        return value

    def metadata_of(self, value: Tensor) -> AnyMetadata | None:
        """Return the metadata of a plain tensor of this trace; None for any other."""
        if type(value) is FakeTensor and value.fake_mode is not self._fake_mode:
            return None
        if type(value) not in (FakeTensor, Tensor, torch.nn.Parameter):
            return None
        if type(value) is not FakeTensor and value._has_symbolic_sizes_strides:
            # The wrapper of a function transform around a fake tensor.
            return None
        if self._above_transforms and (current_transform() is not None or is_transformed(value)):
            return None
        return self.metadata.of(value)

    def _made(self, value: Tensor, metadata: AnyMetadata) -> Tensor:
        if type(value) is FakeTensor:
            return self.fakes.snapshot(value, metadata.device)
        known = metadata
        assert isinstance(known, Metadata)
        return self.fakes.empty(known.shape, known.stride, known.dtype, known.device)

    def _snapshot(self, value: Tensor, *, include_real: bool = False) -> Tensor | None:
        if isinstance(value, FakeTensor):
            return fast_detach(value.fake_mode, value, include_real)
        if self._above_transforms and is_fake(value):
            return value.detach()
        if value.is_sparse:
            return None
        # Neither this capture nor one around it may record how its inputs are described.
        with suspend_tracing(), self._fake_mode:
            return torch.empty_strided(
                value.shape, value.stride(), dtype=value.dtype, device=value.device
            )
