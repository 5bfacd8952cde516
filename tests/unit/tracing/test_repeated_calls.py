"""An operator seen before is recorded from memory: whatever may make it differ is noticed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._decomp import get_decompositions

import hopyard

aten = torch.ops.aten


def pair() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 6), torch.randn(4, 6)


def fills_empty_outputs(x: Tensor, y: Tensor) -> list[Any]:
    results = []
    for _ in range(3):
        out, values, order = torch.empty(0), torch.empty(0), torch.empty(0, dtype=torch.long)
        torch.add(x, y, out=out)
        torch.sort(x, out=(values, order))
        results += [out + 1, values + order]
    return results


def resizes_to_fit(x: Tensor, y: Tensor) -> list[Tensor]:
    results = []
    for target in (x, x, x[0]):
        total = torch.zeros(2, 2) * 1
        total.resize_as_(target)
        results.append(total * 2)
    return results


def gives_other_storages(x: Tensor, y: Tensor) -> list[Tensor]:
    results = []
    for source in (y, y, y[:2], y.t()):
        total = x + 1
        total.set_(source)
        results.append(total * 2)
    return results


def gives_other_data(x: Tensor, y: Tensor) -> list[Tensor]:
    results = []
    for source in (y, y.t(), y[:2], y.double(), y.new_zeros(8, 6)[:4], y > 0):
        total = x + 1
        total.data = source * 1
        results += [total * 2, total.reshape(-1)]
    return results


def empties_and_fills_a_storage(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    total = x * 1
    total.untyped_storage().resize_(0)
    total.untyped_storage().resize_(96)
    return total * 2, x * 1


def mixes_numbers(x: Tensor, y: Tensor) -> list[Tensor]:
    whole, truth = x.long(), x > 0
    return [value * factor for value in (x, whole, truth) for factor in (1, 1.0, True, 1j, -0.0)]


def spells_dimensions(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    sums = x.sum(0), x.sum((0,)), x.sum([0]), x.sum(-2), x.sum(0, True), x.sum(dim=0, keepdim=True)
    return (*sums, x.sum(dtype=torch.double), x.sum(0, dtype=torch.double), x.sum(()))


def clamps_with_special_numbers(x: Tensor, y: Tensor) -> list[Tensor]:
    bounds = (math.inf, -math.inf, math.nan, 0.0, -0.0)
    return [x.clamp(max=bound) for bound in bounds for _ in range(2)]


def writes_through_equal_views(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    base = x * 1
    first, second, flat = base[0], base[1], base.view(24)
    for view in (first, second, flat, base):
        view.add_(1)
    return base, first, second, flat, base[0], base[1]


def meets_itself(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    first = torch.where(x > 0, x, y), torch.where(y > 0, x, x), torch.where(y > 0, y, x)
    return (
        *first,
        x.add_(y),
        x.add_(x),
        x.mul_(y),
        y.mul_(y),
        torch.cat([x, x]),
        torch.cat([x, y]),
    )


def conjugates_and_negates(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    number = torch.complex(x, y)
    parts = number.real * 2, number.imag * 2, number.conj().real * 2, number.conj().imag * 2
    return (*parts, number * 2, number.conj() * 2, number * 2, number.conj().imag.add_(1))


def alternates_formats(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    plain = x.view(1, 2, 3, 4)
    last = plain.contiguous(memory_format=torch.channels_last)
    odd = torch.empty_strided((1, 2, 3, 4), (24, 1, 8, 2))
    operands = (plain, last, odd)
    products = [one + other for one in operands for other in operands]
    return (*products, *(value.clone() for value in operands), *map(torch.empty_like, operands))


def alternates_gradients(x: Tensor, y: Tensor) -> tuple[Any, ...]:
    frozen, leaf = torch.zeros(3) * 1, (torch.zeros(3) * 1).requires_grad_()
    with torch.no_grad():
        skipped = leaf * 2
    doubled = leaf * 2
    doubled.register_hook(lambda gradient: gradient * 3)
    (gradient,) = torch.autograd.grad((doubled * skipped * frozen * (leaf * 2)).sum(), leaf)
    return frozen * 2, skipped, gradient, leaf.detach() * 2


def alternates_inference(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        inside = x * 2
        again = x * 2
    return inside, again, x * 2, x * 2


def views_inference_tensors_outside(x: Tensor, y: Tensor) -> list[Any]:
    with torch.inference_mode():
        inside = x * 2
    views = [each for _ in range(2) for each in (inside.view_as(inside), inside.t(), inside[0])]
    views += [each for _ in range(2) for each in (x.view_as(x), x.t(), x[0])]
    views += [each.view_as(each) for each in views]
    return [*views, *(each.is_inference() for each in views)]


def pads_what_is_trained(x: Tensor, y: Tensor) -> list[Tensor]:
    trained = x.detach().requires_grad_()
    return [torch.nn.functional.pad(trained, (0, trained.shape[0])) for _ in range(3)]


def alternates_autocast(x: Tensor, y: Tensor) -> list[Tensor]:
    results = [x @ y.t()]
    for dtype in (torch.bfloat16, torch.half, torch.bfloat16):
        with torch.autocast("cpu", dtype=dtype):
            results += [x @ y.t(), x.sum(0)]
    return [*results, x @ y.t()]


def alternates_default_types(x: Tensor, y: Tensor) -> list[Tensor]:
    results = []
    for dtype in (torch.float32, torch.float64, torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        results += [torch.arange(3) / 2, torch.ones(2), x.long() / 3, torch.tensor(1.5)]
    torch.set_default_dtype(torch.float32)
    return results


def alternates_determinism(x: Tensor, y: Tensor) -> list[Tensor]:
    results = []
    for strict in (False, True, False):
        torch.use_deterministic_algorithms(strict)
        results += [torch.empty(3) * 1, x.index_add(0, torch.tensor([0]), y[:1]), x.cumsum(0)]
    torch.use_deterministic_algorithms(False)
    return results


def returns_what_it_was_given(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    turned = x.t()
    same = x.to(torch.float32), x.contiguous(), x.expand(4, 6), x.reshape(4, 6), x.flatten()
    return (*same, turned.contiguous(), turned.reshape(6, 4), turned.flatten(), turned.expand(6, 4))


def splits_twice(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    pieces = [*torch.split(x, [2, 4], 1), *torch.split(y, [2, 4], 1), *torch.split(x, 2, 1)]
    for piece in pieces:
        piece.mul_(2)
    return (*pieces, torch.stack(pieces[4:]), *torch.unbind(x), *torch.chunk(y, 2))


def indexes_twice(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    where = torch.tensor([0, 1])
    return x[where], y[where], x[where, where], x[None, where], x[:, where], x[where][where]


def draws_twice(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    torch.manual_seed(3)
    return torch.rand(3), torch.rand(3), torch.rand_like(x), x.uniform_(), x.normal_(), x.uniform_()


def transforms_twice(x: Tensor, y: Tensor) -> list[Tensor]:
    def smooth(value: Tensor) -> Tensor:
        return (value * 2).sin().sum()

    results = [x * 2]
    for _ in range(2):
        results += [torch.func.grad(smooth)(x), torch.vmap(smooth)(x), smooth(x), x * 2]
    return results


def runs_modules_twice(x: Tensor, y: Tensor) -> list[Tensor]:
    results = []
    for training in (True, False, True):
        hidden = torch.nn.functional.dropout(x, 0.5, training)
        mean, variance = torch.zeros(6), torch.ones(6)
        results += [hidden, torch.nn.functional.batch_norm(x, mean, variance, training=training)]
        results += [mean, variance]
    return results


PROGRAMS = [
    value
    for value in list(globals().values())
    if getattr(value, "__module__", None) == __name__ and value.__code__.co_varnames[:1] == ("x",)
]


@pytest.fixture(autouse=True)
def _settings() -> Any:
    yield
    torch.set_default_dtype(torch.float32)
    torch.use_deterministic_algorithms(False)


@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized:UserWarning")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_the_graph_is_torchs(program: Callable[..., Any], as_torch: Any) -> None:
    as_torch(program, fresh=pair)


@pytest.mark.parametrize("first", [0, 1])
def test_a_decomposition_that_declines_once_is_asked_again(first: int, as_torch: Any) -> None:
    def rows_only(x: Tensor, dims: list[int], *rest: Any, **options: Any) -> Any:
        return x.mul(2).mean(dims) if dims == [0] else NotImplemented

    def program(x: Tensor, y: Tensor) -> list[Tensor]:
        return [value.sum(dim) for value in (x, y) for dim in (first, 1 - first, first)]

    table = {aten.sum.dim_IntList: rows_only}
    graph_module = as_torch(program, fresh=pair, decompositions=table)
    sums = graph_module.graph.find_nodes(op="call_function", target=aten.sum.dim_IntList)
    assert {node.args[1][0] for node in sums} == {1}


def test_a_table_applies_to_every_call(as_torch: Any) -> None:
    def program(x: Tensor, y: Tensor) -> list[Tensor]:
        return [torch.nn.functional.gelu(value) for value in (x, y, x * 1)]

    graph_module = as_torch(program, fresh=pair, decompositions=get_decompositions([aten.gelu]))
    assert not graph_module.graph.find_nodes(op="call_function", target=aten.gelu.default)


def writes_to_a_view_of_a_constant(x: Tensor, y: Tensor) -> Tensor:
    count = torch.tensor([3.0])
    count[0] = x[0, 0]
    return x * count.item()


def writes_to_a_constant_behind_an_expansion(x: Tensor, y: Tensor) -> Tensor:
    count = torch.tensor(3.0)
    count.expand(1, 1).add_(x.sum())
    return x * count.item()


WRITES_TO_CONSTANTS = [writes_to_a_view_of_a_constant, writes_to_a_constant_behind_an_expansion]


@pytest.mark.parametrize("program", WRITES_TO_CONSTANTS)
def test_a_constant_written_through_a_view_cannot_be_read(program: Callable[..., Any]) -> None:
    with pytest.raises(hopyard.errors.DataDependentError):
        hopyard.make_fx(program, tracing_mode="real")(*pair())


@pytest.mark.parametrize("program", WRITES_TO_CONSTANTS)
def test_a_constant_written_through_a_view_is_read_when_the_graph_runs(
    program: Callable[..., Any],
) -> None:
    graph_module = hopyard.make_fx(program, tracing_mode="fake")(*pair())
    inputs = pair()
    torch.testing.assert_close(graph_module(*inputs), program(*inputs))


def makes_tensors_of_all_kinds(x: Tensor, y: Tensor) -> list[Tensor]:
    made = []
    for _ in range(2):
        total = x + y
        total.mul_(2)
        made += [total, total.t(), total[1:], torch.zeros_like(x), total.view(-1), x.view(-1)]
    return made


def test_nobody_reads_the_data_of_what_is_made_directly(mode: str, as_torch: Any) -> None:
    if mode == "real":
        pytest.skip("there are data")
    graph_module = as_torch(makes_tensors_of_all_kinds, *pair())
    values = [node.meta["val"] for node in graph_module.graph.nodes if "val" in node.meta]
    tensors = [value for value in values if isinstance(value, Tensor)]
    assert len(tensors) > 12
    for tensor in tensors:
        with pytest.raises(RuntimeError, match="data pointer"):
            tensor.untyped_storage().data_ptr()


def specializes_between(x: Tensor, y: Tensor) -> list[Tensor]:
    rows, columns = x + 1, (x + 1).t()
    described = [rows.mul_(2), columns.mul_(2)]
    torch._check(x.shape[0] == x.shape[1])
    again = [rows.mul_(2), columns.mul_(2), rows + columns]
    rows.requires_grad_()
    return [*described, *again, rows.sigmoid()]


def test_a_description_goes_by_what_is_known_of_sizes(as_torch: Any) -> None:
    as_torch(specializes_between, torch.randn(4, 4), torch.randn(4, 4))
