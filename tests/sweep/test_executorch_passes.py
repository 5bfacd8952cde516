"""Passes of ExecuTorch and its backends make on our base what they make on ExecuTorch's.

`make sweep-executorch` runs all of them, on more programs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("executorch.exir", reason="executorch is not installed: make test-executorch")
# torch's own samples of inputs need it.
pytest.importorskip("expecttest", reason="torch.testing._internal needs expecttest")

import torch
from executorch_programs import PROGRAMS
from executorch_rebasing import Importer, Rebased
from pass_comparison import EXECUTORCH, difference
from sweep_executorch_passes import compared, run, with_stamps
from torch.export import ExportedProgram
from torch.fx import GraphModule

from hopyard_export_pass import ExportPass

pytestmark = pytest.mark.filterwarnings("ignore")

CHANGING = {
    "layers, edge": (
        "arm._passes.decompose_div_pass.DecomposeDivPass",
        "arm._passes.exir_to_tosa_pass.ExirToTosaPass",
        "cadence.aot.decompose_ops.DecomposeAtenApproxGeluPass",
        "example.example_backend_delegate_passes.permute_memory_formats_pass"
        ".PermuteMemoryFormatsPass",
        "qualcomm._passes.canonicalize_conv.CanonicalizeConv",
        "qualcomm._passes.decompose_addmm.DecomposeAddmm",
        "qualcomm._passes.expand_broadcast_tensor_shape.ExpandBroadcastTensorShape",
        "qualcomm._passes.remove_redundancy.RemoveRedundancy",
        "samsung._passes.conv1d_to_conv2d.Conv1dToConv2d",
        "transforms.addmm_mm_to_linear.AddmmToLinearTransform",
        "transforms.collapse_view_copy.CollapseViewCopyPass",
        "transforms.convert_conv1d_to_conv2d_pass.ConvertConv1dToConv2dPass",
        "transforms.fuse_batch_norm_with_conv.FuseBatchNormWithConvPass",
        "transforms.fuse_cascaded_view_ops.FuseCascadedViewOps",
        "transforms.fuse_view_copy.FuseViewCopyTransform",
        "transforms.mean_to_sum_div.MeanToSumDiv",
        "transforms.propagate_view_copy_permute_pass.PropagateViewCopyPermuteUpPass",
        "transforms.remove_clone_ops.RemoveCloneOpsTransform",
        "transforms.remove_getitem_op.RemoveGetItemPass",
        "transforms.replace_ops_with_channels_last_variants.ReplaceOpsWithChannelsLastVariants",
        "vulkan._passes.remove_redundant_ops.RemoveRedundantOpsTransform",
        "xnnpack._passes.conv1d_unsqueeze_pass.Conv1dUnsqueezePass",
        "xnnpack._passes.convert_to_linear.ConvertToLinearPass",
        "xnnpack._passes.decompose_batch_norm.DecomposeBatchNorm",
        "xnnpack._passes.fuse_activation_pass.FuseActivationPass",
        "xnnpack._passes.fuse_batch_norm.FuseBatchNormPass",
    ),
    "quantized, edge": (
        "cadence.aot.reorder_ops.AdvanceQuantizeOpAboveDefInBranchPass",
        "cadence.aot.reorder_ops.HoistOpsCloserToDefPass",
        "cadence.aot.reorder_ops.PostponeDequantizeOpBelowUseChainPass",
        "cadence.aot.reorder_ops.SinkOpsCloserToUsePass",
        "qualcomm._passes.fold_qdq.FoldQDQ",
        "samsung._passes.fold_qdq.FoldQDQPass",
        "vulkan._passes.fold_qdq.FoldQDQPass",
    ),
    "reductions, edge": (
        "arm._passes.rewrite_slice.RewriteSlicePass",
        "qualcomm._passes.decompose_any.DecomposeAny",
        "qualcomm._passes.i64_to_i32.I64toI32",
        "samsung._passes.replace_scalar_ops.ReplaceOpsWithScalar",
        "transforms.convert_dtype_pass.ConvertDtypePass",
        "transforms.fuse_transpose_or_permute_op_pairs_pass.FuseTransposeOrPermuteOpPairsPass",
        "transforms.rank_0_to_rank_1.Rank0ToRank1Pass",
        "transforms.replace_squeeze_unsqueeze_with_view.ReplaceSqueezeAndUnsqueezeWithViewPass",
    ),
}
"""Passes of backends that change a program."""

OF_EXECUTORCH = (
    "const_prop_pass.ConstPropPass",
    "memory_format_ops_pass.DimOrderOpsRevertPass",
    "replace_aten_with_edge_pass.OpReplacePass",
    "scalar_to_tensor_pass.ScalarToTensorPass",
    "spec_prop_pass.SpecPropPass",
    "sym_to_tensor_pass.SymToTensorPass",
)
PAIRS = [
    *((program, f"backends.{name}") for program, names in CHANGING.items() for name in names),
    *(
        (program, f"exir.passes.{name}")
        for program in ("regions", "sizes, edge", "data")
        for name in OF_EXECUTORCH
    ),
]


@pytest.fixture(scope="module")
def importer() -> Importer:
    return Importer()


@pytest.fixture(scope="module")
def programs() -> Callable[[str], tuple[ExportedProgram, ExportedProgram]]:
    """Return what makes a program, and the same with stamps, once."""
    made: dict[str, tuple[ExportedProgram, ExportedProgram]] = {}

    def pair(name: str) -> tuple[ExportedProgram, ExportedProgram]:
        if name not in made:
            program = PROGRAMS[name]()
            made[name] = program, with_stamps(program)
        return made[name]

    return pair


@pytest.mark.parametrize(("program", "path"), PAIRS)
def test_a_pass_on_our_base(program: str, path: str, importer: Importer, programs: Any) -> None:
    if ".cadence." in path:
        # Its passes name its operators, which they do not register.
        pytest.importorskip("executorch.backends.cadence.aot.ops_registrations")
    module, name = f"executorch.{path}".rsplit(".", 1)
    kind = getattr(pytest.importorskip(module, exc_type=ImportError), name)
    outcome = compared(kind, importer.rebased(kind), *programs(program))
    assert not outcome.refusal
    assert not outcome.problem
    assert outcome.changed or path.startswith("exir.")


def test_a_rebased_pass_is_one_of_ours(importer: Importer) -> None:
    from executorch.exir.pass_base import ExportPass as TheirPass
    from executorch.exir.passes import ScalarToTensorPass

    made = importer.rebased(ScalarToTensorPass)
    assert made is not ScalarToTensorPass
    assert issubclass(made, ExportPass)
    assert not issubclass(made, TheirPass)
    assert made.call_operator.__code__ == ScalarToTensorPass.call_operator.__code__


def test_executorch_writes_the_same_files_on_our_base() -> None:
    script = Path(__file__).with_name("executorch_lowering.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))}

    def written(base: str) -> dict[str, Any]:
        names = ("sizes", "attention", "layers", "pointwise", "data")
        command = [sys.executable, str(script), "--base", base, *names]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return dict(json.loads(done.stdout.splitlines()[-1]))

    one, other = written("ours"), written("theirs")
    assert (one["ours"], other["ours"]) == (True, False)
    assert one["files"] == other["files"]


def test_a_difference_is_noticed(programs: Any) -> None:
    class Doubling(Rebased):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
            if op is torch.ops.aten.relu.default:
                args = (super().call_operator(op, args, kwargs, meta),)
            return super().call_operator(op, args, kwargs, meta)

    program, _ = programs("sizes")
    plain, doubled = run(Rebased, program), run(Doubling, program)
    assert isinstance(plain, GraphModule)
    assert isinstance(doubled, GraphModule)
    assert not difference(plain, program.graph_module, EXECUTORCH)
    assert difference(doubled, plain, EXECUTORCH)
