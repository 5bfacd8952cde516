"""`fold-conv-bn`: a batch normalization becomes part of the convolution before it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hopyard import Program, Session
from hopyard.pipeline import origin_of
from hopyard.verify import verify

aten = torch.ops.aten
Capture = Callable[..., Program]
IMAGE = torch.linspace(-1, 1, 2 * 4 * 6 * 6).reshape(2, 4, 6, 6)
NORMS = {
    aten.batch_norm.default,
    aten.native_batch_norm.default,
    aten._native_batch_norm_legit_functional.default,
    aten._native_batch_norm_legit_no_training.default,
}


def norms(program: Program) -> int:
    return sum(node.target in NORMS for node in program.graph.nodes)


def trained(module: nn.Module) -> nn.Module:
    """Give batch normalizations statistics and weights that are not their first ones."""
    torch.manual_seed(0)
    for each in module.modules():
        if isinstance(each, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            if each.running_mean is not None and each.running_var is not None:
                each.running_mean.normal_()
                each.running_var.uniform_(0.5, 2.0)
            if each.affine:
                each.weight.data.uniform_(0.5, 2.0)
                each.bias.data.normal_()
    return module.eval()


def folded(
    session: Session, module: nn.Module, *inputs: Any, pre_dispatch: bool = False
) -> Program:
    """Run the pass and compare with eager."""
    expected = copy.deepcopy(module)(*inputs)
    program = session.capture(module, inputs, pre_dispatch=pre_dispatch)
    result = session.run("fold-conv-bn", program).program
    torch.testing.assert_close(result(*inputs), expected, rtol=1e-4, atol=1e-5)
    verify(result.graph_module, propagate=True)
    return result


@pytest.mark.parametrize("pre_dispatch", [False, True])
@pytest.mark.parametrize(
    ("layers", "inputs"),
    [
        ((nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8)), IMAGE),
        ((nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d(8)), IMAGE),
        ((nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8, affine=False)), IMAGE),
        ((nn.Conv2d(4, 8, 3, 2, 1, 2, groups=2), nn.BatchNorm2d(8, eps=0.1)), IMAGE),
        ((nn.Conv2d(4, 8, 3, padding=1, padding_mode="circular"), nn.BatchNorm2d(8)), IMAGE),
        ((nn.Conv1d(4, 8, 3), nn.BatchNorm1d(8)), IMAGE.flatten(2)),
        ((nn.Conv3d(4, 8, 1), nn.BatchNorm3d(8)), IMAGE.unsqueeze(-1)),
        (
            (
                nn.Conv2d(4, 8, 3),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.Conv2d(8, 4, 1),
                nn.BatchNorm2d(4),
            ),
            IMAGE,
        ),
    ],
)
def test_a_normalization_with_fixed_statistics_is_folded(
    layers: tuple[nn.Module, ...], inputs: Tensor, pre_dispatch: bool, session: Session
) -> None:
    module = trained(nn.Sequential(*copy.deepcopy(layers)))
    program = folded(session, module, inputs, pre_dispatch=pre_dispatch)
    assert norms(program) == 0
    kept = set(program.state)
    assert not any("running" in name for name in kept)


def test_transposed_convolutions_are_folded(session: Session) -> None:
    plain = trained(nn.Sequential(nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6)))
    assert norms(folded(session, plain, IMAGE)) == 0
    grouped = trained(nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)))
    assert norms(folded(session, grouped, IMAGE)) == 1


def test_a_decomposed_normalization_is_folded(session: Session) -> None:
    module = trained(nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own tree specifications
        exported = torch.export.export(module, (IMAGE,)).run_decompositions()
    program = session.from_exported_program(exported)
    legit = aten._native_batch_norm_legit_no_training.default
    assert program.graph.find_nodes(op="call_function", target=legit)
    result = session.run("fold-conv-bn", program).program
    assert norms(result) == 0
    torch.testing.assert_close(result(IMAGE), module(IMAGE), rtol=1e-4, atol=1e-5)


def test_the_new_node_knows_what_it_was_made_from(session: Session) -> None:
    module = trained(nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8)))

    def forward(x: Tensor) -> Any:
        return module[1](module[0](x))

    before = session.capture(forward, (IMAGE,))
    program = session.run("fold-conv-bn", before).program
    (convolution,) = program.graph.find_nodes(op="call_function", target=aten.convolution.default)
    origin = origin_of(convolution)
    assert origin is not None
    assert origin.nodes == ("convolution", "native_batch_norm", "getitem")
    assert "stack_trace" in convolution.meta
    assert convolution.meta["val"].shape == (2, 8, 4, 4)


class UsedTwice(nn.Module):
    """The result of a convolution is used beside its normalization, or normalized twice."""

    def __init__(self, twice: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.other = nn.BatchNorm2d(8)
        self.twice = twice

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolution(x)
        return self.norm(y) + (self.other(y) if self.twice else y)


class SharedConvolution(nn.Module):
    """One convolution with two normalizations, and one normalization after two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4, 4, 1)
        self.first = nn.BatchNorm2d(4)
        self.second = nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.convolution(self.first(self.convolution(x))))
        return self.first(self.last(y)) + self.convolution.weight.sum()


class ComputedWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 4, 1, 1))
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(nn.functional.conv2d(x, self.weight.abs()))


class Counting(nn.Module):
    """The program writes the statistics that it normalizes with."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4, 8, 1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        assert self.norm.running_mean is not None
        self.norm.running_mean.add_(1.0)
        return self.norm(self.convolution(x))


@pytest.mark.parametrize("pre_dispatch", [False, True])
@pytest.mark.parametrize("twice", [False, True])
def test_a_result_with_other_users_stays(twice: bool, pre_dispatch: bool, session: Session) -> None:
    program = folded(session, trained(UsedTwice(twice)), IMAGE, pre_dispatch=pre_dispatch)
    assert norms(program) == 1 + twice


def test_shared_weights_are_left_to_others(session: Session) -> None:
    module = trained(SharedConvolution())
    before = copy.deepcopy(module.state_dict())
    program = folded(session, module, IMAGE)
    assert norms(program) == 0
    assert "convolution.weight" in program.state
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8, track_running_stats=False)),
        nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.BatchNorm2d(8)),
        nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 8, 3)),
        nn.Sequential(nn.Conv2d(4, 8, 3), nn.GroupNorm(2, 8)),
        ComputedWeight(),
        Counting(),
    ],
)
def test_what_cannot_be_folded_stays(module: nn.Module, session: Session) -> None:
    module = trained(copy.deepcopy(module))
    program = session.capture(module, (IMAGE,))
    assert not session.run("fold-conv-bn", program).records[0].modified
    folded(session, module, IMAGE)


def test_training_stays_training(session: Session) -> None:
    module = trained(nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8))).train()
    again = copy.deepcopy(module)
    program = session.run("fold-conv-bn", session.capture(module, (IMAGE,))).program
    assert norms(program) == 1
    torch.testing.assert_close(program(IMAGE), again(IMAGE))
    torch.testing.assert_close(dict(module.named_buffers()), dict(again.named_buffers()))


def test_other_data_types_stay(session: Session) -> None:
    module = trained(nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        program = session.capture(module, (IMAGE,))
    result = session.run("fold-conv-bn", program)
    assert not result.records[0].modified
    torch.testing.assert_close(result.program(IMAGE), program(IMAGE))
    double = trained(nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8))).double()
    assert norms(folded(session, double, IMAGE.double())) == 0


def test_images_without_a_batch_are_normalized_as_they_were(session: Session) -> None:
    class Unbatched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(4, 8, 1)
            self.norm = nn.BatchNorm1d(6)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.norm(self.convolution(x))
            return result

    module = trained(Unbatched())
    program = folded(session, module, IMAGE[0], pre_dispatch=True)
    assert norms(program) == 1


def test_bodies_of_regions_stay(session: Session) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = torch.cond(x.sum() > 0, self.layers, lambda y: y.clone(), (x,))
            return result

    module = trained(Branching())
    program = session.capture(module, (IMAGE,))
    assert not session.run("fold-conv-bn", program).records[0].modified


def test_dynamic_batches_stay_dynamic(session: Session) -> None:
    module = trained(nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU()))
    batch = {0: torch.export.Dim("batch", min=2, max=8)}
    program = session.capture(module, (IMAGE,), dynamic_shapes=({0: batch[0]},))
    result = session.run("fold-conv-bn", program).program
    assert norms(result) == 0
    more = torch.randn(5, 4, 6, 6)
    torch.testing.assert_close(result(more), module(more), rtol=1e-4, atol=1e-5)
