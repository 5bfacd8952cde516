"""Programs compute the same whether parts of them were lowered or not."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from hopyard import Program
from hopyard_executorch_delegate import LoweredModule, call_delegate, report

Delegated = Callable[..., Program]


def lowered_modules(program: Program) -> list[LoweredModule]:
    return [child for child in program.graph_module.children() if isinstance(child, LoweredModule)]


def left_over(program: Program) -> list[str]:
    return [node.target for node in report(program).undelegated]


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.norm.running_mean.uniform_(-1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu().mean((2, 3))


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return self.linear(x) * self.count


def bert() -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="the models are transformers'")
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    return transformers.BertModel(config).eval()


class Encode(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bert = bert()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.bert(input_ids=ids, attention_mask=mask).last_hidden_state


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2), nn.LogSoftmax(-1))


def several(x: Tensor) -> tuple[Tensor, ...]:
    values, indices = x.topk(2)
    left, middle, right = x.split(1, 1)
    return values * 2, indices, left + right, middle


def integers(x: Tensor) -> dict[str, Tensor]:
    return {"best": x.argmax(-1), "positive": x > 0, "sum": (x * 3).to(torch.int32).sum()}


def arguments(x: Tensor) -> Tensor:
    y = torch.full_like(x, float("-inf"), dtype=torch.float64).masked_fill(x > 0, 0.1)
    z = y.exp().to(torch.float32).contiguous(memory_format=torch.channels_last)
    return torch.clamp(z, max=float("inf")) + torch.arange(4, device="cpu")[[2, 1]]


CASES = {
    "mlp": (mlp, (torch.ones(3, 4),)),
    "conv and batch norm": (
        lambda: ConvNet().eval(),
        (torch.linspace(0, 1, 192).reshape(1, 3, 8, 8),),
    ),
    "bert": (Encode, (torch.arange(12).reshape(2, 6), torch.tensor([[1] * 6, [1] * 4 + [0] * 2]))),
    "several outputs": (lambda: several, (torch.tensor([[1.0, 3, 2], [6, 5, 4]]),)),
    "integers": (lambda: integers, (torch.tensor([[1.0, -3, 2]]),)),
    "arguments": (lambda: arguments, (torch.linspace(-1, 1, 24).reshape(2, 3, 2, 2),)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_delegated_program_computes_what_eager_does(case: str, delegated: Delegated) -> None:
    make, inputs = CASES[case]
    target = make()
    with torch.no_grad():
        program = delegated(target, *inputs)
        expected, found = target(*inputs), program(*inputs)
    assert_close(found, expected, rtol=0, atol=0)
    assert left_over(program) == []
    assert len(lowered_modules(program)) == 1


def test_it_shares_parameters_with_the_module(delegated: Delegated) -> None:
    module, x = mlp(), torch.ones(3, 4)
    program = delegated(module, x)
    with torch.no_grad():
        module[0].weight.mul_(2)
        assert_close(program(x), module(x))


def test_a_buffer_is_written_by_every_call(delegated: Delegated) -> None:
    module, x = Counter(), torch.ones(2, 3)
    eager = copy.deepcopy(module)
    program = delegated(module, x)
    with torch.no_grad():
        for _ in range(3):
            assert_close(program(x), eager(x))
    assert module.count == 3


def test_training_works_though_the_program_writes_a_buffer(delegated: Delegated) -> None:
    module, x = Counter(), torch.ones(2, 3)
    program = delegated(module, x)
    eager = copy.deepcopy(module)
    for _ in range(2):
        program(x).sum().backward()
        eager(x).sum().backward()
    assert module.count == 2
    assert_close(module.linear.weight.grad, eager.linear.weight.grad)


def random_in_the_middle(x: Tensor) -> Tensor:
    left = x.sin() * 2
    noise = torch.rand_like(left)
    return (left + noise).cos() + x


def dropout_twice(x: Tensor) -> Tensor:
    x = nn.functional.dropout(x.sin(), 0.5)
    return nn.functional.dropout(x.cos() * 2, 0.5).exp()


def crossing_draws(x: Tensor) -> Tensor:
    early = x.sin()
    first = torch.rand_like(early)
    second = torch.rand_like(x)
    return first + (x + second).cos() * early


@pytest.mark.parametrize("target", [random_in_the_middle, dropout_twice, crossing_draws])
def test_a_seed_gives_the_same_numbers_as_before(
    target: Callable[[Tensor], Tensor], delegated: Delegated
) -> None:
    x = torch.linspace(0, 1, 6)
    program = delegated(target, x)
    assert len(lowered_modules(program)) >= 2
    assert all("rand" in name or "bernoulli" in name for name in left_over(program))
    torch.manual_seed(7)
    expected = target(x)
    torch.manual_seed(7)
    assert_close(program(x), expected, rtol=0, atol=0)


def test_no_partition_depends_on_itself(delegated: Delegated) -> None:
    def diamond(x: Tensor) -> Tensor:
        top = x.sin()
        around = torch.rand_like(top)
        return top.cos() * around

    program = delegated(diamond, torch.ones(3))
    assert [each.operators for each in report(program).partitions] == [1, 2]
    assert left_over(program) == ["aten.rand_like.default"]


def test_small_partitions_stay(delegated: Delegated) -> None:
    program = delegated(random_in_the_middle, torch.ones(3), pipeline="delegate{minimum=3}")
    assert [each.operators for each in report(program).partitions] == [3]
    reasons = {node.target: node.reasons for node in report(program).undelegated}
    assert reasons["aten.sin.default"] == {"reference": "its partition has fewer than 3 operators"}


@pytest.mark.parametrize("minimum", [1, 3, 1000])
def test_every_value_is_described_as_the_undelegated_program_describes_it(
    minimum: int, delegated: Delegated
) -> None:
    program = delegated(dropout_twice, torch.ones(4), pipeline=f"delegate{{minimum={minimum}}}")
    for node in program.graph.nodes:
        if node.op == "call_function":
            value = node.meta["val"]
            assert isinstance(value, tuple) == (node.target is call_delegate)


def test_what_is_delegated_can_be_delegated_again(delegated: Delegated) -> None:
    x = torch.linspace(0, 1, 6)
    program = delegated(dropout_twice, x, pipeline="delegate{minimum=2},delegate")
    assert left_over(program) == ["aten.bernoulli.p"] * 2
    torch.manual_seed(7)
    expected = dropout_twice(x)
    torch.manual_seed(7)
    assert_close(program(x), expected)


def test_threads_may_run_one_program(delegated: Delegated) -> None:
    module = mlp()
    inputs = [torch.full((3, 4), float(value)) for value in range(8)]
    program = delegated(module, inputs[0])
    start = threading.Barrier(2)

    def run(values: list[Tensor]) -> list[Tensor]:
        start.wait()
        with torch.no_grad():
            return [program(value) for value in values]

    with ThreadPoolExecutor(2) as pool:
        results = [each for part in pool.map(run, (inputs[:4], inputs[4:])) for each in part]
    with torch.no_grad():
        assert_close(results, [module(value) for value in inputs])


def test_two_threads_may_delegate_at_once(delegated: Delegated) -> None:
    x = torch.ones(3, 4)
    with ThreadPoolExecutor(2) as pool:
        programs = list(pool.map(lambda module: delegated(module, x), [mlp(), mlp()]))
    assert [report(program).undelegated for program in programs] == [(), ()]


def test_the_given_program_stays_as_it_was(session: Any) -> None:
    program = session.capture(mlp(), (torch.ones(3, 4),))
    before = str(program.graph)
    metadata = {node.name: dict(node.meta) for node in program.graph.nodes}
    session.run("delegate", program)
    assert str(program.graph) == before
    assert {node.name: dict(node.meta) for node in program.graph.nodes} == metadata


def test_a_program_without_partitions_can_still_be_saved(
    session: Any, delegated: Delegated, tmp_path: Any
) -> None:
    x = torch.ones(3, 4)
    program = delegated(mlp(), x, pipeline="delegate{minimum=1000}")
    program.save(tmp_path / "program.pt2")
    assert_close(session.load(tmp_path / "program.pt2")(x), program(x))
