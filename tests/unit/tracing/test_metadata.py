"""What node metadata says of a tensor is what torch says of it."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.fx.passes.shape_prop import _extract_tensor_metadata

from hopyard.tracing.memory._metadata import MetadataTable

SIZES = (0, 1, 2, 3)


@pytest.mark.parametrize("dimensions", range(6))
@pytest.mark.parametrize("fake", [False, True])
def test_every_layout_is_described_as_torch_does(dimensions: int, fake: bool) -> None:
    fake_mode = FakeTensorMode()
    for shape in itertools.islice(itertools.product(SIZES, repeat=dimensions), 0, None, 11):
        whole = torch.empty(shape)
        for order in itertools.islice(itertools.permutations(range(dimensions)), 0, None, 7):
            tensor = whole.permute(order)
            for layout in (tensor, tensor[..., :1] if dimensions else tensor):
                value = fake_mode.from_tensor(layout) if fake else layout
                metadata = MetadataTable().of(value)
                assert metadata is not None
                expected = _extract_tensor_metadata(value)
                assert metadata.plain == expected
                assert metadata.trained == expected._replace(requires_grad=True)
                assert type(metadata.plain.shape) is torch.Size


def test_formats_with_channels_last_are_told_apart() -> None:
    table = MetadataTable()
    for shape, memory_format in (
        ((2, 3, 4, 5), torch.channels_last),
        ((2, 3, 4, 5, 6), torch.channels_last_3d),
        ((2, 3, 4, 5), torch.contiguous_format),
    ):
        metadata = table.of(torch.empty(shape).contiguous(memory_format=memory_format))
        assert metadata is not None
        assert metadata.plain.memory_format is memory_format
