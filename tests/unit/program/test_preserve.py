"""A capture leaves everything as it was: tensors, attributes, modes and random numbers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

import hopyard
from hopyard.errors import CaptureError, UnsupportedError
from hopyard_hookspecs import Policy


@pytest.fixture(scope="module")
def session() -> hopyard.Session:
    return hopyard.Session()


class Everything(nn.Module):
    """Changes whatever a forward can change, then fails if it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("total", torch.zeros(3))
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("cache", None)
        self.calls = 0
        self.log: list[str] = []
        self.table = torch.arange(3.0)

    def forward(self, x: Tensor, fail: str = "") -> Tensor:
        self.calls += 1
        self.note = "seen"
        x.mul_(2)
        self.total.add_(x.sum(0))
        self.count = self.count + 1
        y = self.dropout(self.norm(self.linear(x))) + self.table + torch.rand(3)
        if fail == "raise":
            raise ValueError("injected")
        if fail == "branch" and y.sum() > 0:
            return y
        if fail == "interrupt":
            raise KeyboardInterrupt
        if fail == "item":
            return y * y.sum().item()
        if fail == "grad":
            with torch.set_grad_enabled(not torch.is_grad_enabled()):
                y = y * 2
        if fail == "replaced":
            x.data = torch.zeros(5)
        return y * self.count


def snapshot(module: nn.Module, *inputs: Tensor) -> list[Any]:
    tensors = [*module.parameters(), *module.buffers(), *inputs]
    return [
        [tensor.detach().clone() for tensor in tensors],
        [
            (id(tensor), tensor.data_ptr(), tensor._version, tensor.requires_grad)
            for tensor in tensors
        ],
        [tensor.grad for tensor in tensors],
        [dict(tensor.__dict__) for tensor in tensors],
        [
            (
                name,
                each.training,
                sorted(each.__dict__),
                {**each._parameters, **each._buffers}.keys(),
            )
            for name, each in module.named_modules()
        ],
        {
            key: value
            for key, value in module.__dict__.items()
            if isinstance(value, int | str | list)
        },
    ]


def surroundings() -> list[Any]:
    return [
        torch.get_rng_state().tolist(),
        random.getstate(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.is_autocast_cache_enabled(),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        _get_current_dispatch_mode_stack(),
        _get_current_function_mode_stack(),
        torch._C._dispatch_tls_local_include_set().raw_repr(),
        torch._C._dispatch_tls_local_exclude_set().raw_repr(),
        torch._C._functorch.peek_interpreter_stack(),
    ]


def assert_same(first: Any, second: Any) -> None:
    assert len(first) == len(second)
    torch.testing.assert_close(first[0], second[0], rtol=0, atol=0)
    assert first[1:] == second[1:]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize(
    ("fail", "error"),
    [
        ("", None),
        ("raise", CaptureError),
        ("branch", CaptureError),
        ("interrupt", KeyboardInterrupt),
        ("item", None),
        ("grad", CaptureError),
        ("replaced", CaptureError),
    ],
)
def test_nothing_is_changed(
    session: hopyard.Session,
    fail: str,
    error: type[BaseException] | None,
    grad: bool,
    training: bool,
) -> None:
    module, given = Everything().train(training), torch.randn(4, 3)
    with torch.set_grad_enabled(grad):
        before, around = snapshot(module, given), surroundings()
        # What a block records is lost only if a result tells of it, which none does without grad.
        if error is None or (fail == "grad" and not grad):
            session.capture(module, (given, fail))
        else:
            with pytest.raises(error):
                session.capture(module, (given, fail))
        assert_same(snapshot(module, given), before)
        assert surroundings() == around
    assert not hasattr(module, "note")
    assert module.calls == 0


@pytest.mark.parametrize("fails", [True, False])
def test_what_the_program_changes_around_it_is_put_back(
    session: hopyard.Session, fails: bool
) -> None:
    def program(x: Tensor) -> Tensor:
        torch.manual_seed(3)
        random.random()
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(not torch.is_grad_enabled())
        if fails:
            raise ValueError
        return x * 2

    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            around = surroundings()
            try:
                session.capture(program, (torch.ones(2),), policy={"HY101": Policy.RECORD})
            except CaptureError:
                assert fails
            assert surroundings() == around


def test_a_capture_inside_a_capture_leaves_it_undisturbed(session: hopyard.Session) -> None:
    def outer(x: Tensor) -> Tensor:
        session.capture(torch.sin, (torch.ones(3),))
        return x.cos()

    program = session.capture(outer, (torch.ones(2),))
    assert [node.name for node in program.graph.nodes] == ["x", "cos", "output"]


@pytest.fixture(params=["default dtype", "autocast", "inference mode", "function mode"])
def unusual(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "default dtype":
        torch.set_default_dtype(torch.float64)
        yield
        torch.set_default_dtype(torch.float32)
        return
    contexts: dict[str, Callable[[], Any]] = {
        "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        "inference mode": torch.inference_mode,
        "function mode": torch.overrides.BaseTorchFunctionMode,
    }
    with contexts[request.param]():
        yield


@pytest.mark.usefixtures("unusual")
def test_the_state_around_is_left_and_obeyed(session: hopyard.Session) -> None:
    linear, given = nn.Linear(3, 3), torch.ones(2, 3)
    around = surroundings()
    program = session.capture(lambda a: linear(a) + torch.ones(3), (given,))
    assert surroundings() == around
    torch.testing.assert_close(program(given), linear(given) + torch.ones(3))
    assert program(given).dtype == (linear(given) + torch.ones(3)).dtype


@pytest.mark.parametrize("place", ["self", "child", "new"])
def test_a_tensor_bound_to_a_plain_attribute_is_refused_and_taken_back(
    session: hopyard.Session, place: str
) -> None:
    class Remembering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.child = nn.Identity()
            self.last = self.child.last = torch.zeros(2)

        def forward(self, x: Tensor) -> Tensor:
            owner = self.child if place == "child" else self
            setattr(owner, "fresh" if place == "new" else "last", x * 2)
            return x + 1

    module = Remembering()
    kept = module.last
    with pytest.raises(UnsupportedError) as raised:
        session.capture(module, (torch.ones(2),))
    attribute = {"self": "last", "child": "child.last", "new": "fresh"}[place]
    assert attribute in raised.value.message
    assert "register_buffer" in raised.value.hint
    assert module.last is kept
    assert module.child.last is kept
    assert not hasattr(module, "fresh")


def test_plain_attributes_are_put_back(session: hopyard.Session) -> None:
    class Counting(nn.Module):
        steps = 0

        def forward(self, x: Tensor) -> Tensor:
            self.steps += 1
            self.mode = "on"
            self.extra = nn.Linear(2, 2)
            del self.gone
            return x * self.steps

    module = Counting()
    module.gone = 3
    program = session.capture(module, (torch.ones(2),))
    assert program(torch.ones(2)).tolist() == program(torch.ones(2)).tolist() == [1, 1]
    assert module.__dict__.keys() >= {"gone"}
    assert not {"steps", "mode"} & module.__dict__.keys()
    assert dict(module.named_children()) == {}


def test_a_buffer_that_gets_its_first_tensor_is_refused_and_taken_back(
    session: hopyard.Session,
) -> None:
    class Lazy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", None)

        def forward(self, x: Tensor) -> Tensor:
            if self.table is None:
                self.table = torch.ones(3)
            return x + self.table

    module = Lazy()
    with pytest.raises(UnsupportedError, match="table"):
        session.capture(module, (torch.ones(3),))
    assert module.table is None
    module(torch.ones(3))
    assert session.capture(module, (torch.ones(3),))(torch.ones(3)).tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("bind", "found"),
    [
        (
            lambda module, x: setattr(module, "last", torch.cat([module.last, x])),
            "float32[4] on cpu",
        ),
        (lambda module, x: setattr(module, "last", module.last.int()), "int32[2] on cpu"),
        (lambda module, x: setattr(module, "last", module.last[None]), "float32[1, 2] on cpu"),
        (lambda module, x: setattr(module, "last", None), "no tensor"),
        (lambda module, x: delattr(module, "last"), "no tensor"),
    ],
)
def test_a_buffer_bound_to_something_else_is_refused(
    session: hopyard.Session, bind: Callable[[nn.Module, Tensor], None], found: str
) -> None:
    class Binding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("last", torch.zeros(2))

        def forward(self, x: Tensor) -> Tensor:
            bind(self, x)
            return x + 1

    module = Binding()
    kept = module.last
    with pytest.raises(UnsupportedError) as raised:
        session.capture(module, (torch.ones(2),))
    assert f"last to {found} in place of float32[2] on cpu" in raised.value.message
    assert module.last is kept


def test_a_capture_computes_nothing(session: hopyard.Session) -> None:
    huge = torch.empty(200_000, 100_000, device="meta")
    program = session.capture(lambda a: (a @ a.t()).sum(), (huge,))
    assert "mm" in str(program.graph)
    calls: list[str] = []

    class Recording(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(type(x).__name__)
            return x

    session.capture(Recording(), (torch.ones(2),))
    assert calls == ["FakeTensor"]


def test_what_a_capture_leaves_behind_is_collected(session: hopyard.Session) -> None:
    import gc
    import weakref

    module = nn.Linear(3, 3)
    seen: list[weakref.ref[Any]] = []

    def forward(x: Tensor) -> Tensor:
        y = module(x)
        seen.append(weakref.ref(y))
        raise ValueError

    with pytest.raises(CaptureError):
        session.capture(forward, (torch.ones(2, 3),))
    gc.collect()
    assert seen[0]() is None
    assert module.weight.__dict__ == {}


def test_a_closed_over_tensor_is_not_changed(session: hopyard.Session) -> None:
    table = torch.zeros(3)

    def forward(a: Tensor) -> Tensor:
        table.add_(1)
        return a + table

    with pytest.raises(UnsupportedError):
        session.capture(forward, (torch.ones(3),))
    assert table.tolist() == [0, 0, 0]


def test_random_numbers_for_closed_over_tensors_are_not_drawn(session: hopyard.Session) -> None:
    table = torch.full((8,), 0.5)
    before = torch.get_rng_state()
    session.capture(lambda a: a + torch.bernoulli(table), (torch.ones(8),))
    assert torch.equal(torch.get_rng_state(), before)


class Caching(nn.Module):
    def __init__(self, fill: str) -> None:
        super().__init__()
        self.fill = fill
        self.log: list[Any] = ["begin"]
        self.sizes: dict[str, Any] = {"seen": [1, {2}]}

    def forward(self, x: Tensor) -> Tensor:
        if self.fill == "tensor":
            self.log.append(x * 2)
        if self.fill == "nested tensor":
            self.sizes["seen"].append(x)
        self.log.insert(0, "called")
        self.sizes["count"] = self.sizes.pop("seen")
        self.sizes["count"][1].add(x.shape[0])
        if self.fill == "failure":
            raise ValueError
        return x + len(self.log)


@pytest.mark.parametrize("fill", ["numbers", "tensor", "nested tensor", "failure"])
def test_containers_of_a_module_get_their_content_back(session: hopyard.Session, fill: str) -> None:
    module = Caching(fill)
    log, sizes, seen = module.log, module.sizes, module.sizes["seen"]
    if fill == "numbers":
        assert session.capture(module, (torch.ones(2),))(torch.ones(2)).tolist() == [3, 3]
    else:
        with pytest.raises(CaptureError, match="ValueError" if fill == "failure" else "log|sizes"):
            session.capture(module, (torch.ones(2),))
    assert (log, sizes, seen) == (["begin"], {"seen": seen}, [1, {2}])
    assert module.log is log
    assert module.sizes is sizes


def test_containers_of_inputs_must_not_be_changed(session: hopyard.Session) -> None:
    def program(batch: dict[str, Tensor]) -> Tensor:
        return batch.pop("x") + 1

    given = {"x": torch.ones(2)}
    with pytest.raises(UnsupportedError, match="dictionary"):
        session.capture(program, (given,))
    assert given.keys() == {"x"}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("normalized", [nn.utils.weight_norm, nn.utils.spectral_norm])
@pytest.mark.parametrize("training", [False, True])
def test_weights_that_hooks_compute_before_each_call(
    session: hopyard.Session, normalized: Any, *, training: bool
) -> None:
    torch.manual_seed(0)
    first, second = (normalized(nn.Linear(3, 3)).train(training) for _ in range(2))
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        program = session.capture(first, (torch.ones(2, 3),))
        for _ in range(2):
            given = torch.randn(2, 3)
            torch.testing.assert_close(program(given), second(given))
    torch.testing.assert_close(first.state_dict(), second.state_dict())
