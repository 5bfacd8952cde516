"""Simple operators are answered without the fake mode, and as the fake mode answers them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

from hopyard.tracing import make_fx
from hopyard.tracing.memory._fakes import FakeFactory
from hopyard.tracing.memory._propagation import MISSING, Propagation

aten = torch.ops.aten


def plainly(tensor: Tensor) -> Tensor:
    return tensor


def transposed(tensor: Tensor) -> Tensor:
    if tensor.dim() < 2:
        return tensor
    return tensor.detach().transpose(-1, -2).contiguous().transpose(-1, -2)


def in_steps(tensor: Tensor) -> Tensor:
    if not tensor.dim():
        return tensor
    return tensor.detach().repeat_interleave(2, -1)[..., ::2]


def further_on(tensor: Tensor) -> Tensor:
    if not tensor.dim():
        return tensor
    return torch.cat([tensor.detach()] * 2)[tensor.shape[0] :]


LAYOUTS = (plainly, transposed, in_steps, further_on)


def look(output: Any, operands: list[Tensor]) -> Any:
    """Describe a result, and which operands it shares memory with."""
    if isinstance(output, (list, tuple)):
        return type(output), [look(item, operands) for item in output]
    if not isinstance(output, Tensor):
        return type(output), output
    storage = output.untyped_storage()
    return (
        type(output),
        output.shape,
        output.stride(),
        output.storage_offset(),
        output.dtype,
        output.device,
        output.requires_grad,
        storage.nbytes(),
        [each is output for each in operands],
        [each.untyped_storage()._cdata == storage._cdata for each in operands],
    )


class Compared(TorchDispatchMode):
    """Asks both about each operator that a program consists of."""

    def __init__(self, fake_mode: FakeTensorMode) -> None:
        super().__init__()
        self._propagation = Propagation(FakeFactory(fake_mode))
        self.answered: list[Any] = []
        self.left: list[Any] = []
        self.wrong: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operands = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        found = MISSING
        if func.namespace == "aten" and not func._schema.is_mutable:
            found = self._propagation.compute(func, args, kwargs)
        expected = func(*args, **kwargs)
        if found is MISSING:
            self.left.append(func)
            return expected
        self.answered.append(func)
        if look(found, operands) != look(expected, operands):
            self.wrong.append(func)
        return expected


@pytest.fixture
def fake_mode() -> FakeTensorMode:
    mode = FakeTensorMode(allow_fallback_kernels=True)
    mode.cache_enabled = False
    return mode


@pytest.fixture
def fake(fake_mode: FakeTensorMode) -> Callable[..., Any]:
    return lambda value: tree_map_only(Tensor, fake_mode.from_tensor, value)


@pytest.fixture
def compared(fake_mode: FakeTensorMode) -> Iterator[Compared]:
    with fake_mode, Compared(fake_mode) as mode:
        yield mode


def sampled(step: int) -> list[Any]:
    return [info for info in op_db[::step] if torch.float32 in info.dtypes]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("info", sampled(17), ids=lambda info: info.formatted_name)
def test_operators_return_what_the_fake_mode_says(
    info: Any, fake: Any, fake_mode: FakeTensorMode
) -> None:
    grad = info.supports_autograd
    samples = list(itertools.islice(info.sample_inputs("cpu", torch.float32, grad), 4))
    compared = Compared(fake_mode)
    for sample, laid_out in itertools.product(samples, LAYOUTS):

        def prepared(tensor: Tensor, laid_out: Any = laid_out) -> Tensor:
            plain = tensor.layout is torch.strided
            return laid_out(tensor).requires_grad_(tensor.requires_grad) if plain else tensor

        given = fake(tree_map_only(Tensor, prepared, (sample.input, sample.args, sample.kwargs)))
        with fake_mode, compared:
            try:
                output = info.op(given[0], *given[1], **given[2])
                tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
                trained = [each for each in tensors if each.requires_grad]
                leaves = [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
                operands = [leaf for leaf in leaves if leaf.requires_grad]
                if trained and operands:
                    ones = [torch.ones_like(each) for each in trained]
                    torch.autograd.grad(trained, operands, ones, allow_unused=True)
            except Exception:  # noqa: BLE001
                # The fake mode refuses it, which the propagation leaves to the fake mode.
                continue
    assert not compared.wrong


CALLS: dict[str, Callable[[Callable[..., Tensor]], Any]] = {
    "pointwise": lambda new: new(2, 3) * new(3) + 1,
    "promotion": lambda new: new(2, 3).long() / 2 + True,
    "a decomposition": lambda new: torch.nn.functional.layer_norm(new(2, 3), [3]),
    "evaluating statistics": lambda new: torch.nn.functional.batch_norm(
        new(2, 3, 4), new(3), new(3), training=False
    ),
    "a convolution": lambda new: torch.conv2d(new(1, 2, 5, 5), new(3, 2, 3, 3)),
    "factories": lambda new: torch.zeros_like(new(2, 3)) + torch.arange(3, dtype=torch.float64),
    "a device": lambda new: torch.ones(2, device="cpu") + new(2).new_full((2,), 1, device="cpu"),
    "several": lambda new: [new(4, 3).split(2), new(4, 3).topk(2), new(4, 3).unbind()],
    "views": lambda new: new(4, 6).t()[1:, 0].unsqueeze(0).expand(3, 5).squeeze(),
    "indexing": lambda new: new(4, 3)[new(2).long()],
    "nothing": lambda new: new(0, 3).sum(0) + new(0, 3).t().reshape(-1).sum(),
}


@pytest.mark.parametrize("name", CALLS)
def test_common_operators_are_answered(name: str, fake: Any, compared: Compared) -> None:
    CALLS[name](lambda *shape: fake(torch.ones(shape)))
    assert compared.answered
    assert not compared.wrong
    known = (aten.detach.default, aten._to_copy.default, torch.ops.prim.device.default)
    assert not [func for func in compared.left if func not in known]


class Answered(TorchDispatchMode):
    """Asks the propagation about each operator, or nobody; tells results in other words.

    In these, which numbers are one number is told, and what was assumed up to then.
    """

    def __init__(self, fake_mode: FakeTensorMode, *, directly: bool) -> None:
        super().__init__()
        self._propagation = Propagation(FakeFactory(fake_mode)) if directly else None
        self._shape_env: Any = fake_mode.shape_env
        self._numbers: dict[Any, int] = {}
        self.answered: list[Any] = []
        self.told: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = MISSING
        if self._propagation is not None and func.namespace == "aten":
            found = self._propagation.compute(func, args, kwargs)
        if found is MISSING:
            found = func(*args, **kwargs)
        else:
            self.answered.append(func)
        operands = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        guards = [str(guard.expr) for guard in self._shape_env.guards]
        self.told.append((str(func), self._tell(found, operands), guards))
        return found

    def _tell(self, output: Any, operands: list[Tensor]) -> Any:
        if isinstance(output, (list, tuple)):
            return type(output), [self._tell(item, operands) for item in output]
        if not isinstance(output, Tensor):
            return self._number(output)
        storage = output.untyped_storage()
        numbers = (*output.shape, *output.stride(), output.storage_offset(), output.numel())
        return (
            type(output),
            [self._number(number) for number in numbers],
            str(storage.nbytes()),
            (output.dtype, output.device, output.requires_grad),
            [each is output for each in operands],
            [each.untyped_storage()._cdata == storage._cdata for each in operands],
        )

    def _number(self, number: Any) -> Any:
        if not isinstance(number, torch.SymInt):
            return number
        node = number.node
        return str(node.expr), node.hint, self._numbers.setdefault(node, len(self._numbers))


def answers(program: Callable[[Any], Any], tensors: list[Tensor], *, directly: bool) -> Answered:
    """Run a program on tensors with symbolic sizes."""
    fake_mode = FakeTensorMode(shape_env=ShapeEnv(), allow_fallback_kernels=False)
    fake_mode.cache_enabled = False
    fakes = [
        fake_mode.from_tensor(tensor, source=ConstantSource(f"input{index}"))
        for index, tensor in enumerate(tensors)
    ]
    with fake_mode, enable_python_dispatcher(), Answered(fake_mode, directly=directly) as mode:
        try:
            program(iter(fakes))
        except Exception as error:  # noqa: BLE001
            mode.told.append(type(error))
    return mode


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("info", sampled(23), ids=lambda info: info.formatted_name)
def test_symbolic_sizes_are_answered_as_the_fake_mode_does(info: Any) -> None:
    samples = itertools.islice(info.sample_inputs("cpu", torch.float32, info.supports_autograd), 3)
    for sample, laid_out in itertools.product(samples, LAYOUTS):
        given = (sample.input, sample.args, sample.kwargs)
        leaves, spec = tree_flatten(given)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if any(each.layout is not torch.strided for each in tensors):
            continue
        trained = [each.requires_grad for each in tensors]
        moved = [
            laid_out(each.detach()).detach().requires_grad_(requires)
            for each, requires in zip(tensors, trained, strict=True)
        ]

        def program(fakes: Any, leaves: Any = leaves, spec: Any = spec) -> None:
            filled = [next(fakes) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            first, args, kwargs = tree_unflatten(filled, spec)
            output = info.op(first, *args, **kwargs)
            results = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
            losses = [each.sum() for each in results if each.requires_grad]
            wanted = [each for each in filled if isinstance(each, Tensor) and each.requires_grad]
            if losses and wanted:
                torch.autograd.grad(losses, wanted, allow_unused=True)

        expected = answers(program, moved, directly=False)
        assert answers(program, moved, directly=True).told == expected.told


@pytest.mark.parametrize("name", sorted(set(CALLS) - {"nothing"}))
def test_common_operators_are_answered_on_symbolic_sizes(name: str) -> None:
    tensors = [torch.ones(shape) for shape in ((3, 3, 5, 5), (4, 6), (4,), (3,))]

    def program(fakes: Any) -> None:
        image, matrix, rows, vector = fakes
        sources = {4: image, 3: image[0], 2: matrix, 1: rows}

        def new(*shape: int) -> Tensor:
            return sources[len(shape)][tuple(slice(size) for size in shape)]

        _ = CALLS[name](new)
        _ = (matrix * rows[:, None] + 1).softmax(-1) @ matrix.T
        _ = torch.nn.functional.layer_norm(image, [5]).relu_().mul_(2).reshape(3, -1)
        _ = torch.cat([matrix, matrix[:2]]).sum(0) + vector.new_zeros(matrix.shape[1])

    expected = answers(program, tensors, directly=False)
    actual = answers(program, tensors, directly=True)
    assert actual.told == expected.told
    assert RuntimeError not in actual.told
    operators = [each for each in actual.told if each[0].startswith("aten")]
    assert len(actual.answered) > 0.8 * len(operators)


PRIMITIVES: dict[str, Callable[[Tensor], Tensor]] = {
    "one operand": torch.tanh,
    "several operators": torch.relu,
    "a copy": lambda x: x.t().contiguous(),
    "another type": lambda x: (x > 0).sum(dim=0),
}


@pytest.mark.parametrize("name", PRIMITIVES)
def test_what_operators_decompose_into_is_answered(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[Any] = []
    dispatch = FakeTensorMode.dispatch

    def noted(self: FakeTensorMode, func: Any, *call: Any) -> Any:
        left.append(func)
        return dispatch(self, func, *call)

    monkeypatch.setattr(FakeTensorMode, "dispatch", noted)
    make_fx(PRIMITIVES[name], tracing_mode="symbolic")(torch.randn(4, 6))
    assert not left


def test_in_place_operators_return_the_operand(fake: Any, fake_mode: FakeTensorMode) -> None:
    propagation = Propagation(FakeFactory(fake_mode))
    x, y = fake(torch.ones(2, 3)), fake(torch.ones(3))
    for func in (aten.add_.Tensor, aten.mul_.Tensor, aten.copy_.default):
        version = x._version
        assert propagation.compute(func, (x, y), {}) is x
        with fake_mode:
            func(x, y)
        assert x._version in (version, version + 2)


NOT_PLAIN: dict[str, Callable[[FakeTensorMode], tuple[Any, tuple[Any, ...]]]] = {
    "a real tensor": lambda mode: (aten.sin.default, (torch.ones(2),)),
    "another mode's": lambda mode: (
        aten.sin.default,
        (FakeTensorMode().from_tensor(torch.ones(2)),),
    ),
    "a conjugate": lambda mode: (
        aten.sin.default,
        (mode.from_tensor(torch.ones(2, dtype=torch.cfloat).conj()),),
    ),
    "sparse": lambda mode: (aten.sin.default, (mode.from_tensor(torch.ones(2).to_sparse()),)),
    "two devices": lambda mode: (
        aten.add.Tensor,
        (mode.from_tensor(torch.ones(2)), FakeTensor(mode, torch.ones(2, device="meta"), "cuda:0")),
    ),
    "data": lambda mode: (aten.nonzero.default, (mode.from_tensor(torch.ones(2)),)),
    "sizes in place": lambda mode: (aten.t_.default, (mode.from_tensor(torch.ones(2, 2)),)),
    "an error": lambda mode: (
        aten.mm.default,
        (mode.from_tensor(torch.ones(2, 2)), mode.from_tensor(torch.ones(3, 3))),
    ),
    "no meta kernel": lambda mode: (aten.geqrf.default, (mode.from_tensor(torch.ones(2, 2)),)),
}


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_what_is_not_plain_is_left_to_the_fake_mode(name: str, fake_mode: FakeTensorMode) -> None:
    func, args = NOT_PLAIN[name](fake_mode)
    propagation = Propagation(FakeFactory(fake_mode))
    assert propagation.compute(func, args, {}) is MISSING
    assert not torch._C._meta_in_tls_dispatch_include()
    assert fake_mode.in_kernel_invocation is False


def test_a_value_that_is_known_is_left_to_the_fake_mode(fake_mode: FakeTensorMode) -> None:
    with fake_mode:
        known = torch.tensor(3.0)
    assert known.constant is not None  # type: ignore[attr-defined]
    propagation = Propagation(FakeFactory(fake_mode))
    assert propagation.compute(aten.sin.default, (known,), {}) is MISSING


def test_a_mode_that_computes_with_data_besides_is_asked_itself() -> None:
    class Watching(FakeTensorMode):
        pass

    assert Propagation.suits(FakeTensorMode())
    assert not Propagation.suits(Watching())
    checking = FakeTensorMode()
    checking.propagate_real_tensors = True
    assert not Propagation.suits(checking)


SHAPES = [(), (1,), (6,), (1, 6), (6, 1), (2, 3), (3, 1, 2), (1, 2, 1, 3), (2, 3, 1, 1), (0, 3)]
SIZES = [*SHAPES, (-1,), (2, -1), (-1, 1), (1, -1, 3), (-1, -1), (4, -1), (0, -1), (-2, -3)]


@pytest.mark.parametrize("func", [aten.view.default, aten._unsafe_view.default])
def test_views_are_those_of_the_fake_mode(func: Any, fake: Any, fake_mode: FakeTensorMode) -> None:
    propagation = Propagation(FakeFactory(fake_mode))
    answered = 0
    for shape, sizes in itertools.product(SHAPES, SIZES):
        count = math.prod(shape)
        whole = torch.ones(3 * count + 2)
        rows = whole[:count].view(shape)
        bases = [rows, whole[2 : 2 + count].view(shape)]
        # A dimension of one element may have any stride, and views keep it or not.
        strides = zip(shape, rows.stride(), strict=True)
        odd = [7 if size == 1 else stride for size, stride in strides]
        bases.append(whole.as_strided(shape, odd))
        if len(shape) == 2:
            bases.append(rows.mT)
        for source in fake(bases):
            found = propagation.compute(func, (source, list(sizes)), {})
            try:
                with fake_mode:
                    expected = func(source, list(sizes))
            except Exception:  # noqa: BLE001
                expected = MISSING
            assert (found is MISSING) == (expected is MISSING), (source, sizes)
            if found is not MISSING:
                answered += 1
                assert look(found, [source]) == look(expected, [source])
    assert answered > 100
