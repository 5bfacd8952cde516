"""ExecuTorch's own passes, unmodified, in pipelines of ours."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hopyard.passes import adapted
from hopyard.session import Session
from hopyard.verify import verify
from hopyard_hookspecs import Pass, hookimpl

passes = pytest.importorskip(
    "executorch.exir.passes", exc_type=ImportError, reason="executorch is optional"
)
pytestmark = pytest.mark.filterwarnings("ignore")

NAMES = (
    "ConstPropPass",
    "EdgeToBackendOpsPass",
    "FoldRedundantDequantizeQuantizePass",
    "HintBasedSymShapeEvalPass",
    "LegalizePortableDimOrderPass",
    "MemoryFormatOpsPass",
    "NormalizeTransposePass",
    "PruneEmptyTensorsPass",
    "RemoveNoopPass",
    "RemoveToCopyPass",
    "ReplaceBrokenOpsWithFunctionalOpsPass",
    "ReplaceSymSizeOpPass",
    "ScalarToTensorPass",
    "SpecPropPass",
    "SymToTensorPass",
)
"""Those that keep a graph of ATen operators; the others lead to other dialects."""


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(self.convolution(x).mean((2, 3)) * 2.0)
        chosen = torch.cond(y.sum() > 0, lambda z: z.sin() * 2.0, lambda z: z.t().t() + 1, (y,))
        return chosen + x.shape[0]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_it_keeps_what_a_program_computes(name: str, dynamic: bool) -> None:
    class Plugin:
        @hookimpl
        def hopyard_register_passes(self) -> list[Pass]:
            return [Pass("theirs", adapted(getattr(passes, name)))]

    torch.manual_seed(0)
    model, image = Model().eval(), torch.randn(2, 3, 6, 6)
    again: Any = copy.deepcopy(model)
    shapes = ({0: torch.export.Dim("batch", min=2, max=8)},) if dynamic else None
    session = Session(plugins=[Plugin()], discover=False)
    with torch.no_grad():
        program = session.capture(model, (image,), dynamic_shapes=shapes)
        result = session.run("theirs,theirs", program).program
        verify(result.graph_module, propagate=True)
        for x in (image, image - 2, torch.randn(5, 3, 6, 6)) if dynamic else (image, image - 2):
            torch.testing.assert_close(result(x), again(x), rtol=1e-4, atol=1e-5)
