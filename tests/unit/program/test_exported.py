"""What torch does with a program that was exported: checks, compilers, objects of its classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from hopyard import Session

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")


@pytest.fixture(scope="module")
def session() -> Session:
    return Session(discover=False)


class Deciding(nn.Module):
    def forward(self, x: Tensor, *, more: dict[str, Tensor]) -> Tensor:
        if x.shape[0] * 2 > x.shape[1]:
            return x + more["bias"]
        return x


def _given(rows: int, columns: int) -> tuple[tuple[Tensor], dict[str, Any]]:
    return (torch.randn(rows, columns),), {"more": {"bias": torch.randn(columns)}}


@pytest.fixture(scope="module")
def dynamic(session: Session) -> Any:
    args, kwargs = _given(4, 3)
    shapes = {"x": {0: Dim("rows", max=9), 1: Dim.AUTO}, "more": {"bias": {0: Dim.AUTO}}}
    return session.capture(Deciding(), args, kwargs, dynamic_shapes=shapes)


def _saved(exported: Any, folder: Path) -> Any:
    torch.export.save(exported, folder / "theirs.pt2")
    return torch.export.load(folder / "theirs.pt2")


WAYS: dict[str, Callable[[Any, Path], Any]] = {
    "exported": lambda exported, folder: exported,
    "decomposed": lambda exported, folder: exported.run_decompositions(),
    "saved": _saved,
}


@pytest.mark.parametrize("way", WAYS)
def test_torch_checks_what_the_capture_decided_by(dynamic: Any, tmp_path: Path, way: str) -> None:
    module = WAYS[way](dynamic.to_exported_program(), tmp_path).module()
    args, kwargs = _given(7, 5)
    torch.testing.assert_close(module(*args, **kwargs), args[0] + kwargs["more"]["bias"])
    for rows, columns in ((2, 5), (10, 5)):
        args, kwargs = _given(rows, columns)
        with pytest.raises(AssertionError, match="Guard failed"):
            module(*args, **kwargs)


def test_compilers_find_examples_of_the_sizes_that_were_captured(dynamic: Any) -> None:
    examples = dynamic.to_exported_program().example_inputs
    assert examples is not None
    assert examples[0][0].shape == (4, 3)
    assert examples[1]["more"]["bias"].shape == (3,)


LOWERED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], dict[str, Any]]] = {
    "convolution": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), (2, 3, 8, 8), {}),
    "attention": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        (2, 4, 8),
        {"pre_dispatch": True},
    ),
    "dynamic": (
        lambda: nn.Linear(3, 4),
        (4, 3),
        {"dynamic_shapes": {"input": {0: Dim("batch", max=16)}}},
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LOWERED)
def test_executorch_lowers_and_runs_it(session: Session, name: str) -> None:
    exir = pytest.importorskip(
        "executorch.exir", exc_type=ImportError, reason="ExecuTorch is not installed"
    )
    runtime = pytest.importorskip(
        "executorch.runtime", exc_type=ImportError, reason="ExecuTorch is not installed"
    )
    make, shape, options = LOWERED[name]
    model, given = make().eval(), torch.randn(shape)
    with torch.no_grad():
        program = session.capture(model, (given,), **options)
        lowered = exir.to_edge_transform_and_lower(program.to_exported_program())
        loaded = runtime.Runtime.get().load_program(bytes(lowered.to_executorch().buffer))
        found = loaded.load_method("forward").execute([given])
        torch.testing.assert_close(found[0], model(given), rtol=1e-4, atol=1e-5)
