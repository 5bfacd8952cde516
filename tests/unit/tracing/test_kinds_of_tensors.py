"""Tensors that are not plain: what torch captures we capture, what it refuses we refuse clearly."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx

import hopyard
from hopyard.errors import CaptureError, UnsupportedError

Program = Callable[..., Any]
Inputs = Callable[[], Any]

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta state:UserWarning"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning"),
]


def pair() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 6), torch.randn(4, 6)


def complex_pair() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 6, dtype=torch.complex64), torch.randn(4, 6)


def writes_out(x: Tensor, y: Tensor) -> Any:
    exact, grown = torch.empty(4, 6), torch.empty(0)
    torch.add(x, y, out=exact)
    torch.mul(x, y, out=grown)
    values, indices = torch.empty(0), torch.empty(0, dtype=torch.int64)
    torch.max(x, 1, out=(values, indices))
    return exact, grown, values, indices


def replaces_data(x: Tensor, y: Tensor) -> Any:
    copy = x.clone()
    copy.data = y.t()
    x.data.add_(1)
    y.data = y * 2
    return copy + 1, x + y


def takes_storage(x: Tensor, y: Tensor) -> Any:
    return x.clone().set_(y) + 1, x.clone().resize_(2, 2) + 1  # type: ignore[call-overload]


def jagged(x: Tensor, y: Tensor) -> Tensor:
    nested = torch.nested.as_nested_tensor([x[:2], y], layout=torch.jagged)
    return nested.sin().values()


def quantizes(x: Tensor, y: Tensor) -> Tensor:
    return torch.quantize_per_tensor(x, 0.1, 0, torch.qint8).dequantize() + y


ALIKE: dict[str, tuple[Program, Inputs]] = {
    "sparse-input": (lambda s, y: s @ y, lambda: (torch.eye(4).to_sparse(), torch.randn(4, 6))),
    "sparse-values": (
        lambda s, y: s.coalesce().values() * 2,
        lambda: (torch.eye(4).to_sparse(), torch.randn(4, 6)),
    ),
    "sparse-product": (lambda x, y: torch.sparse.mm(x.to_sparse(), y.t()), pair),
    "sparse-made": (
        lambda x, y: torch.sparse_coo_tensor(
            torch.tensor([[0, 1]]), x[0, :2], (4,), check_invariants=False
        ).to_dense(),
        pair,
    ),
    "sparse-in-place": (
        lambda s, y: s.add_(s).to_dense() + y,
        lambda: (torch.eye(4).to_sparse(), torch.randn(4, 4)),
    ),
    "fake-quantized": (
        lambda x, y: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127) + y,
        pair,
    ),
    "nested": (jagged, pair),
    "conjugate": (lambda x, y: x.conj() @ x.t(), complex_pair),
    "conjugate-input": (
        lambda x, y: (x * y).sum(),
        lambda: (torch.randn(4, 6, dtype=torch.complex64).conj(), torch.randn(4, 6)),
    ),
    "negative-input": (
        lambda x, y: x * y,
        lambda: (torch.randn(4, 6, dtype=torch.complex64).conj().imag, torch.randn(4, 6)),
    ),
    "conjugate-in-place": (lambda x, y: (x.conj().mul_(2), x), complex_pair),
    "negative-in-place": (lambda x, y: x.conj().imag.add_(y), complex_pair),
    "resolved": (
        lambda x, y: (x.conj().resolve_conj(), x.conj().imag.resolve_neg(), x.conj().is_conj()),
        complex_pair,
    ),
    "viewed-as-real": (
        lambda x, y: (
            torch.view_as_real(x) * 2,
            torch.view_as_complex(torch.stack([y, y], -1)),
        ),
        complex_pair,
    ),
    "zero": (lambda x, y: torch._efficientzerotensor(4, 6) + x, pair),
    "complex-gradient": (
        lambda x, y: torch.autograd.grad((x * x.conj()).real.sum(), x),
        lambda: (torch.randn(4, 6, dtype=torch.complex64, requires_grad=True), torch.ones(1)),
    ),
    "scalars": (
        lambda x, y: (x * y, x.sum(), x.view(1), x.expand(3), x.add_(y)),
        lambda: (torch.tensor(2.0), torch.tensor(3.0)),
    ),
    "numbers-as-tensors": (
        lambda x, y: x + torch.scalar_tensor(2) + torch.tensor(2.5).item() + torch.tensor([1.0]),
        pair,
    ),
    "empty": (
        lambda x, y: (x * y, x.sum(), torch.cat([x, y]), x @ y.t(), x.view(6, 0), x.mean()),
        lambda: (torch.empty(0, 6), torch.empty(0, 6)),
    ),
    "out": (writes_out, pair),
    "data": (replaces_data, pair),
    "storage": (takes_storage, pair),
}


@pytest.fixture(scope="module", autouse=True)
def nested_tensors_in_use() -> None:
    """Using them for the first time makes a tensor that torch keeps, which no capture should do."""
    with warnings.catch_warnings(action="ignore"):
        jagged(*pair())


@pytest.mark.parametrize(("program", "inputs"), ALIKE.values(), ids=ALIKE)
def test_the_graph_is_torchs(program: Program, inputs: Inputs, as_torch: Any) -> None:
    as_torch(program, fresh=inputs)


@pytest.mark.parametrize("mode", ["fake"], indirect=True)
def test_compressed_sparse_tensors_have_shapes(as_torch: Any) -> None:
    as_torch(
        lambda s, y: (s @ y, y.to_sparse_csr().to_dense()),
        fresh=lambda: (torch.eye(4).to_sparse_csr(), torch.randn(4, 6)),
    )


@pytest.mark.parametrize("mode", ["real"], indirect=True)
def test_conjugates_that_the_program_closes_over(as_torch: Any) -> None:
    closed_over = torch.randn(3, dtype=torch.complex64).conj()
    as_torch(lambda x: x * closed_over, fresh=lambda: [torch.ones(3)])


REFUSED: dict[str, tuple[Program, Inputs, tuple[str, ...]]] = {
    "compressed": (
        lambda s: s.to_dense(),
        lambda: [torch.eye(4).to_sparse_csr()],
        ("real",),
    ),
    "quantized": (
        lambda q: q.dequantize(),
        lambda: [torch.quantize_per_tensor(torch.randn(3), 0.1, 0, torch.qint8)],
        ("fake", "real", "symbolic"),
    ),
    "nested": (
        lambda n: n * 2,
        lambda: [torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(4, 3)])],
        ("fake", "real", "symbolic"),
    ),
    "jagged": (
        lambda n: n * 2,
        lambda: [
            torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(4, 3)], layout=torch.jagged)
        ],
        ("fake", "real"),
    ),
}


@pytest.mark.parametrize(
    ("program", "inputs", "mode"),
    [
        pytest.param(program, inputs, mode, id=f"{name}-{mode}")
        for name, (program, inputs, modes) in REFUSED.items()
        for mode in modes
    ],
)
def test_an_input_that_torch_refuses_is_refused_with_advice(
    program: Program, inputs: Inputs, mode: Any
) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011
        torch_make_fx(program, tracing_mode=mode)(*inputs())
    with pytest.raises(UnsupportedError) as raised:
        hopyard.make_fx(program, tracing_mode=mode)(*inputs())
    assert "example input" in raised.value.message
    assert "plain tensors" in raised.value.hint
    assert raised.value.__cause__ is not None


def test_a_quantized_tensor_inside_is_refused_with_its_operator() -> None:
    with pytest.raises(CaptureError) as raised:
        hopyard.make_fx(quantizes)(*pair())
    assert raised.value.operator == "aten.quantize_per_tensor.default"
    assert raised.value.location is not None
    assert raised.value.location.function == "quantizes"
