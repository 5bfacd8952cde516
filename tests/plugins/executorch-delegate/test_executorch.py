"""Programs that the real ExecuTorch runtime executes.

They run where ExecuTorch is installed, which `make test-executorch` and `make demo` do.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.testing import assert_close

import hopyard_executorch_delegate._plugin as delegate_plugin
from hopyard import Program, Session
from hopyard.errors import ArtifactError, InputError, OptionError, ProgramError
from hopyard.hops import bind
from hopyard_executorch_delegate import (
    PteProgram,
    call_delegate,
    convert_to_executorch,
    delegate,
    from_executorch,
    inspect_pte,
    report,
    run_pte,
    to_executorch,
)
from hopyard_hookspecs import Hop

pytest.importorskip("executorch.exir", reason="executorch is not installed: make test-executorch")

pytestmark = [
    # ExecuTorch and the libraries it brings are not free of warnings.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """Import once what warns when it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import executorch.exir
        import executorch.runtime  # noqa: F401


@pytest.fixture(scope="module")
def session() -> Session:
    return Session(discover=False, plugins=[delegate_plugin])


class ConvolutionAndBatchNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.linear = nn.Linear(8 * 16, 5)
        with torch.no_grad():
            self.norm.running_mean.uniform_(-1, 1)
            self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Any:
        x = torch.max_pool2d(torch.relu(self.norm(self.convolution(x))), 2)
        return torch.softmax(self.linear(x.flatten(1)), -1), x.mean((-1, -2), keepdim=True)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("total", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        self.total.add_(y.sum(0))
        return y * self.total


class LiftedConstant(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Any:
        return x * torch.tensor([1.0, 2.0, 3.0]) + y[:, 1:4].contiguous(), x.shape[0]


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 6)
        self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Any:
        return self.norm(torch.relu(self.linear(x))).view(-1), torch.sigmoid(self.linear(x) * 2)


@torch.library.custom_op("executorch_tests::odd", mutates_args=())
def odd(x: Tensor) -> Tensor:
    return x.sin()


odd.register_fake(torch.empty_like)

doubled = bind(Hop("executorch_tests__doubled", lambda body, *xs: 2 * body(*xs)))
plain = bind(Hop("executorch_tests__plain"))

BATCH = Dim("batch", min=2, max=16)

CASES: dict[str, tuple[Callable[[], nn.Module], list[tuple[Tensor, ...]], Any]] = {
    "convolution and batch norm": (ConvolutionAndBatchNorm, [(torch.randn(2, 3, 8, 8),)] * 2, None),
    "a buffer over two calls": (Counting, [(torch.randn(3, 4),), (torch.randn(3, 4),)], None),
    "a lifted constant and an integer": (
        LiftedConstant,
        [(torch.randn(2, 3), torch.randn(2, 5))],
        None,
    ),
    "a dynamic batch": (
        Normalised,
        [(torch.randn(size, 4),) for size in (5, 2, 16)],
        {"x": {0: BATCH}},
    ),
}


def captured(session: Session, module: nn.Module, inputs: Any, shapes: Any = None) -> Program:
    with torch.no_grad():
        return session.capture(module, inputs, dynamic_shapes=shapes)


def leaves(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]


@pytest.mark.parametrize("backends", [(), ("xnnpack",)], ids=["portable", "xnnpack"])
@pytest.mark.parametrize("case", CASES)
def test_the_runtime_computes_what_eager_does(
    case: str, backends: tuple[str, ...], session: Session
) -> None:
    make, calls, shapes = CASES[case]
    torch.manual_seed(0)
    module = make().eval()
    content = to_executorch(captured(session, module, calls[0], shapes), backends, session=session)
    assert bool(inspect_pte(content).delegates) == bool(backends)
    loaded, eager = PteProgram(content), copy.deepcopy(module)
    for inputs in calls:
        with torch.no_grad():
            expected = leaves(eager(*inputs))
        assert_close(loaded(*inputs), expected, rtol=1e-5, atol=1e-5)


def test_delegating_beforehand_is_the_same(session: Session) -> None:
    program = captured(session, nn.Sequential(nn.Linear(4, 8), nn.Sigmoid()), (torch.ones(2, 4),))
    delegated = delegate(program, session, ("xnnpack",))
    assert to_executorch(delegated, ()) == to_executorch(program, session=session)


ELEMENTWISE = [
    torch.relu,
    torch.sigmoid,
    torch.tanh,
    torch.abs,
    torch.neg,
    torch.exp,
    torch.floor,
    torch.ceil,
    torch.sin,
    torch.cos,
    nn.functional.gelu,
    nn.functional.hardswish,
    nn.functional.leaky_relu,
    nn.functional.elu,
    nn.functional.hardtanh,
    lambda x: (x.abs() + 1).log(),
    lambda x: (x.abs() + 1).sqrt(),
    lambda x: (x.abs() + 1).rsqrt(),
    lambda x: x**2,
    lambda x: torch.minimum(x, x.cos()),
    lambda x: torch.maximum(x, x.cos()),
    lambda x: 2 * x + 1 - x / 3,
    lambda x: x - x.cos(),
    lambda x: x / 0.0 + x / -0.0 * 2,
    lambda x: x * float("nan") + x * float("nan"),
    lambda x: x.clone(),
    lambda x: x.view(2, 12),
    lambda x: x.t(),
    lambda x: x.t().contiguous(),
    lambda x: x.transpose(0, -1) * 2,
    lambda x: x.permute(1, 0) * 2,
    lambda x: x.view(-1) * 2,
    lambda x: torch.softmax(x, -1),
    lambda x: torch.cat([x, x.cos()], 1),
    lambda x: torch.cat([x, x.cos(), x.sin()], 0),
    lambda x: torch.bmm(x.view(1, 4, 6), x.view(1, 6, 4)),
]


@pytest.mark.parametrize("index", range(len(ELEMENTWISE)))
def test_what_xnnpack_says_it_takes_it_computes(index: int, session: Session) -> None:
    function, x = ELEMENTWISE[index], torch.randn(4, 6)
    program = session.capture(function, (x,))
    delegated = delegate(program, session, ("xnnpack",), whole=True)
    assert report(delegated).undelegated == ()
    (output,) = run_pte(to_executorch(delegated, ()), [x])
    assert_close(output, function(x), rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: x.double() * 2, "computes with float64"),
        (lambda x: torch.add(x, x.cos(), alpha=2), "scales its second operand"),
        (lambda x: torch.softmax(x, 0), "over another than the last"),
        (lambda x: nn.functional.gelu(x, approximate="tanh"), "is approximated"),
        (lambda x: x**3, "is no square"),
        (lambda x: x @ x.t(), "no transposed constant"),
        (lambda x: torch.cat([x, x], 0), "joins one tensor"),
        (lambda x: x.sum() * 2, "no operator of XNNPACK"),
        (lambda x: x[:0] * 2, "empty"),
    ],
)
def test_what_xnnpack_leaves_it_says_why(
    function: Callable[[Tensor], Tensor], reason: str, session: Session
) -> None:
    x = torch.randn(4, 6)
    delegated = delegate(session.capture(function, (x,)), session, ("xnnpack",))
    said = [each.reasons["xnnpack"] for each in report(delegated).undelegated]
    assert any(reason in each for each in said), said
    assert_close(run_pte(to_executorch(delegated, ()), [x])[0], function(x))


def test_two_parts_share_one_weight(session: Session) -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(torch.cumsum(self.linear(x), 0))

    module, x = Shared().eval(), torch.randn(3, 4)
    content = to_executorch(captured(session, module, (x,)), session=session)
    listing = inspect_pte(content)
    assert len(listing.delegates) == 2
    assert sum(listing.named_data.values()) == 4 * (16 + 4)
    with torch.no_grad():
        assert_close(run_pte(content, [x])[0], module(x), rtol=1e-5, atol=1e-5)


def test_a_cache_gives_the_same_file(session: Session, tmp_path: Path) -> None:
    program = captured(session, ConvolutionAndBatchNorm().eval(), (torch.randn(2, 3, 8, 8),))
    first = to_executorch(program, session=session, cache=tmp_path)
    ways = []
    again = to_executorch(
        program, session=session, cache=tmp_path, progress=lambda each: ways.append(each.way)
    )
    assert set(ways) == {"cached"}
    assert again == first


class TestConversion:
    @pytest.fixture(scope="class")
    @classmethod
    def module(cls) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2)).eval()

    @pytest.fixture(scope="class")
    @classmethod
    def delegated(cls, module: nn.Module, session: Session) -> Program:
        return delegate(captured(session, module, (torch.ones(3, 4),)), session, ("xnnpack",))

    def test_there_and_back_is_the_same_program(
        self, delegated: Program, module: nn.Module, session: Session
    ) -> None:
        back = from_executorch(convert_to_executorch(delegated), session)
        assert written(back) == written(delegated)
        assert set(back.state) == set(delegated.state)
        assert all(back.state[name] is tensor for name, tensor in delegated.state.items())
        x = torch.randn(3, 4)
        with torch.no_grad():
            assert_close(back(x), module(x))

    def test_there_and_back_and_there_is_the_same_file(
        self, delegated: Program, session: Session
    ) -> None:
        back = from_executorch(convert_to_executorch(delegated), session)
        assert to_executorch(back, ()) == to_executorch(delegated, ())

    def test_state_of_delegates_is_theirs(self, delegated: Program) -> None:
        converted = convert_to_executorch(delegated)
        assert set(converted.state_dict) == {"1.weight", "1.bias"}

    def test_gradients_are_right_afterwards(
        self, delegated: Program, module: nn.Module, session: Session
    ) -> None:
        back = from_executorch(convert_to_executorch(delegated), session)
        x = torch.randn(3, 4)
        module.zero_grad()
        back(x).square().sum().backward()
        found = {name: each.grad.clone() for name, each in module.named_parameters()}
        module.zero_grad()
        module(x).square().sum().backward()
        assert_close(found, {name: each.grad for name, each in module.named_parameters()})

    def test_what_executorch_lowered_itself_becomes_ours(
        self, module: nn.Module, session: Session
    ) -> None:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        x = torch.randn(3, 4)
        exported = torch.export.export(module, (x,))
        edge = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
        program = from_executorch(edge.exported_program(), session)
        assert {each.backend for each in report(program).partitions} == {"xnnpack"}
        assert program.graph.find_nodes(op="call_function", target=call_delegate)


def written(program: Program) -> Any:
    lines = [
        (node.op, node.name, str(node.target), str(node.args), str(node.kwargs))
        for node in program.graph.nodes
    ]
    modules = [
        (name, each.backend_id, each.processed_bytes, each.named_data, each.baked.digests)
        for name, each in program.graph_module.named_children()
    ]
    inputs = [(spec.kind, spec.target, spec.arg.name) for spec in program.signature.input_specs]
    return lines, modules, inputs


class TestBadInput:
    @pytest.fixture(scope="class")
    @classmethod
    def content(cls, session: Session) -> bytes:
        module = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.LayerNorm(8)).eval()
        return to_executorch(captured(session, module, (torch.ones(2, 4),)), session=session)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda content: b"",
            lambda content: content[:30],
            lambda content: content[: len(content) // 2],
            lambda content: content[:-200],
            lambda content: b"PK" + content[2:8] + b"xxxx" + content[12:],
            lambda content: b"\0" * len(content),
            lambda content: content[:64] + b"\xff" * 256 + content[320:],
        ],
        ids=["empty", "header only", "half", "end missing", "mixed up", "zeros", "flipped"],
    )
    @pytest.mark.parametrize("read", [PteProgram, inspect_pte], ids=["run", "inspect"])
    def test_a_damaged_program_is_refused(
        self, read: Callable[[bytes], Any], damage: Callable[[bytes], bytes], content: bytes
    ) -> None:
        with pytest.raises(ArtifactError, match="cannot read the program of ExecuTorch"):
            read(damage(content))

    @pytest.mark.parametrize(
        ("inputs", "said"),
        [
            ((), "takes 1 inputs, but was given 0"),
            ((torch.ones(2, 4), 1), "takes 1 inputs, but was given 2"),
            ((torch.ones(3, 4),), r"float32\[3, 4\], but the program takes at most .*\[2, 4\]"),
            ((torch.ones(4),), r"float32\[4\]"),
            ((torch.ones(2, 4, dtype=torch.int64),), r"input 0 is int64\[2, 4\]"),
            ((3,), "input 0 is a int, not a tensor"),
            ((torch.ones(1, 4),), "cannot run on these inputs"),
        ],
    )
    def test_wrong_inputs_are_refused_and_the_program_goes_on(
        self, inputs: Any, said: str, content: bytes
    ) -> None:
        loaded = PteProgram(content)
        with pytest.raises(InputError, match=said):
            loaded(*inputs)
        assert loaded(torch.ones(2, 4))[0].shape == (2, 8)

    def test_an_unknown_method_is_refused(self, content: bytes) -> None:
        with pytest.raises(ArtifactError, match="no method 'backward'") as caught:
            run_pte(content, [torch.ones(2, 4)], method="backward")
        assert "forward" in caught.value.hint

    def test_a_backend_that_the_runtime_lacks_is_named(self, session: Session) -> None:
        program = session.capture(lambda x: x.sin().cos(), (torch.ones(3),))
        content = to_executorch(program, ("reference",), session=session)
        with pytest.raises(ArtifactError) as caught:
            run_pte(content, [torch.ones(3)])
        assert "no backend reference" in caught.value.hint

    def test_xnnpack_has_no_options(self, session: Session) -> None:
        program = session.capture(torch.sin, (torch.ones(3),))
        with pytest.raises(OptionError, match="has no options, but was given fast"):
            delegate(program, session, ("xnnpack",), options={"xnnpack": {"fast": True}})

    def test_an_operator_that_executorch_lacks_is_named(self, session: Session) -> None:
        program = session.capture(odd, (torch.ones(3, 3),))
        with pytest.raises(ProgramError, match="ExecuTorch cannot take the program"):
            to_executorch(program, session=session)

    def test_a_region_that_does_more_than_run_its_body_is_named(self, session: Session) -> None:
        program = session.capture(lambda x: doubled(torch.sin, x), (torch.ones(3),))
        with pytest.raises(ProgramError, match="calls executorch_tests__doubled"):
            to_executorch(program, session=session)

    def test_a_region_that_only_runs_its_body_is_taken_apart(self, session: Session) -> None:
        program = session.capture(
            lambda x: plain(lambda y: (y.sin(), y.cos()), x), (torch.ones(3),)
        )
        content = to_executorch(program, session=session)
        assert_close(run_pte(content, [torch.ones(3)]), [torch.ones(3).sin(), torch.ones(3).cos()])


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_lower_the_same_bytes(workers: int, session: Session) -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2)).eval()
    program = captured(session, module, (torch.ones(3, 4),))
    content = to_executorch(program, session=session, workers=workers)
    x = torch.randn(3, 4)
    with torch.no_grad():
        assert_close(run_pte(content, [x])[0], module(x), rtol=1e-5, atol=1e-5)
