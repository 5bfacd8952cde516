"""A strict region computes what its body does, is one node, and refuses what it cannot hold."""

from __future__ import annotations

import copy
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.strict_mode import strict_mode as torch_strict_mode
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

import hopyard
from hopyard.errors import (
    CaptureError,
    UnsupportedError,
    UsageError,
)
from hopyard_strict_mode import region, strict_mode

REGION = torch.ops.higher_order.strict_mode__region
COUNTER = 0
WEIGHT = torch.tensor([2.0, 3.0, 4.0])


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    yield
    torch.compiler.reset()


@pytest.fixture(scope="module")
def session() -> hopyard.Session:
    return hopyard.Session()


def x() -> Tensor:
    return torch.linspace(-1.0, 2.0, 6).view(2, 3)


def several(a: Tensor, b: Tensor) -> Any:
    return {"sum": a + b, "rest": (a * b, [b.sin()])}


def with_state(a: Tensor) -> Tensor:
    return a * WEIGHT


def in_place_on_its_own(a: Tensor) -> Tensor:
    b = a.clone()
    b.mul_(2)
    b[0] = 3
    return b


LAYER = nn.Linear(3, 3)

BODIES: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "one operator": (torch.sin, (x(),)),
    "arithmetic": (lambda a: a / a.norm(dim=-1, keepdim=True), (x(),)),
    "several results": (several, (x(), x() + 1)),
    "identity": (lambda a: a, (x(),)),
    "no operands": (lambda: torch.ones(2) * 2, ()),
    "a module": (LAYER, (x(),)),
    "a module's parameter": (lambda a: a @ LAYER.weight, (x(),)),
    "a global tensor": (with_state, (x(),)),
    "in place on its own": (in_place_on_its_own, (x(),)),
    "a shape branch": (lambda a: a * 2 if a.shape[0] == 2 else a, (x(),)),
    "a loop": (lambda a: sum((a[i] for i in range(2)), torch.zeros(3)), (x(),)),
    "integers": (lambda a: a // 2, (torch.arange(4),)),
    "nested regions": (
        lambda a: strict_mode(torch.cos, (strict_mode(torch.sin, (a,)) * 2,)),
        (x(),),
    ),
}


def same(first: Any, second: Any) -> None:
    ours, our_spec = pytree.tree_flatten(first)
    theirs, their_spec = pytree.tree_flatten(second)
    assert our_spec == their_spec
    torch.testing.assert_close(ours, theirs)


def regions(graph_module: GraphModule) -> list[Node]:
    return list(graph_module.graph.find_nodes(op="call_function", target=REGION))


@pytest.mark.parametrize("name", BODIES)
def test_it_is_its_body(name: str) -> None:
    body, operands = BODIES[name]
    same(strict_mode(body, operands), body(*operands))
    same(strict_mode(body, list(operands)), body(*operands))


@pytest.mark.parametrize("name", sorted(BODIES.keys() - {"nested regions", "no operands"}))
def test_it_is_what_torch_calls_strict_mode(name: str) -> None:
    body, operands = BODIES[name]
    same(strict_mode(body, operands), torch_strict_mode(body, operands))


@pytest.mark.parametrize("name", BODIES)
def test_a_capture_keeps_one_node(session: hopyard.Session, name: str) -> None:
    body, operands = BODIES[name]
    with torch.no_grad():
        program = session.capture(lambda *given: strict_mode(body, given), operands)
        (node,) = regions(program.graph_module)
        same(program(*operands), body(*operands))
        other = tuple(copy.deepcopy(each) + 1 for each in operands)
        same(program(*other), body(*other))
    inner = getattr(program.graph_module, str(node.args[0].target))
    assert isinstance(inner, GraphModule)
    assert not any(
        isinstance(value, Tensor) and value.requires_grad for value in inner.state_dict()
    )


@pytest.mark.parametrize("name", BODIES)
def test_a_saved_program_keeps_the_region(
    session: hopyard.Session, tmp_path: Path, name: str
) -> None:
    body, operands = BODIES[name]
    with torch.no_grad():
        program = session.capture(lambda *given: strict_mode(body, given), operands)
        program.save(tmp_path / "it.pt2")
        loaded = session.load(tmp_path / "it.pt2")
        assert len(regions(loaded.graph_module)) == 1
        assert loaded.manifest.hops == ("strict_mode__region",)
        same(loaded(*operands), body(*operands))
        exported = program.to_exported_program()
        same(exported.module(check_guards=False)(*operands), body(*operands))


def test_tensors_in_nested_regions_belong_to_the_program(session: hopyard.Session) -> None:
    def inner(a: Tensor) -> Tensor:
        return a * WEIGHT + torch.tensor([1.0, 2.0, 3.0])

    def outer(a: Tensor) -> Tensor:
        return strict_mode(inner, (a @ LAYER.weight,)) + WEIGHT

    with torch.no_grad():
        program = session.capture(lambda a: strict_mode(outer, (a,)) * WEIGHT, (x(),))
        torch.testing.assert_close(program(x()), outer(x()) * WEIGHT)
    assert len(program.constants) == 2
    assert any(value is WEIGHT for value in program.constants.values())
    assert list(program.state.values()) == [LAYER.weight]
    for each in program.graph_module.modules():
        assert not list(each.parameters(recurse=False)) + list(each.buffers(recurse=False))
        assert not any(isinstance(value, Tensor) for value in vars(each).values())


def test_a_new_process_reads_the_region(session: hopyard.Session, tmp_path: Path) -> None:
    with torch.no_grad():
        program = session.capture(lambda a: strict_mode(with_state, (a,)), (x(),))
    program.save(tmp_path / "it.pt2")
    code = """
import sys, torch, hopyard
program = hopyard.load(sys.argv[1])
print("strict_mode__region" in str(program.graph), program(torch.ones(2, 3)).tolist())
"""
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "it.pt2")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "True [[2.0, 3.0, 4.0], [2.0, 3.0, 4.0]]\n", done.stderr


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, a: Tensor) -> Tensor:
        def body(b: Tensor) -> Tensor:
            return self.linear(b) * self.scale + WEIGHT

        return strict_mode(body, (a,)) + 1


def test_what_the_body_takes_from_around_it_becomes_an_operand(session: hopyard.Session) -> None:
    module = Layer()
    with torch.no_grad():
        program = session.capture(module, (x(),))
        (node,) = regions(program.graph_module)
        operands = [each.name for each in node.args[1:]]
        assert operands[:1] == ["a"]
        assert sorted(operands[1:]) == [
            "b_scale",
            "c_lifted_tensor_0",
            "p_linear_bias",
            "p_linear_weight",
        ]
        inner = getattr(program.graph_module, str(node.args[0].target))
        assert not list(inner.graph.find_nodes(op="get_attr"))
        torch.testing.assert_close(program(x()), module(x()))
        module.linear.weight.fill_(0.5)
        module.scale.fill_(4)
        torch.testing.assert_close(program(x()), module(x()))


def test_a_tensor_of_the_program_becomes_an_operand(session: hopyard.Session) -> None:
    def program(a: Tensor, b: Tensor) -> Tensor:
        doubled = b * 2
        return strict_mode(lambda c: c + doubled + b, (a,))

    captured = session.capture(program, (x(), x()))
    (node,) = regions(captured.graph_module)
    assert len(node.args) == 4
    other = torch.randn(2, 3)
    torch.testing.assert_close(captured(x(), other), program(x(), other))


def test_state_changed_around_the_region_is_right(session: hopyard.Session) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, a: Tensor) -> Tensor:
            self.calls.add_(1)
            result = strict_mode(lambda b: b * self.calls, (a,))
            a.mul_(2)
            return result + a

    module, twin = Counting(), Counting()
    program = session.capture(module, (x(),))
    assert len(regions(program.graph_module)) == 1
    for _ in range(2):
        ours, theirs = x(), x()
        torch.testing.assert_close(program(ours), twin(theirs))
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(module.calls, twin.calls)


def test_gradients_are_those_of_the_body() -> None:
    module, twin = Layer(), Layer()
    twin.load_state_dict(module.state_dict())
    given = x().requires_grad_()
    strict_mode(module.linear, (given,)).sum().backward()
    ours = [given.grad, *(each.grad for each in module.parameters())]
    given.grad = None
    twin.linear(given).sum().backward()
    theirs = [given.grad, *(each.grad for each in twin.parameters())]
    torch.testing.assert_close(ours, theirs)


def test_a_capture_with_gradients_is_inlined_and_right(session: hopyard.Session) -> None:
    module, twin = Layer(), Layer()
    twin.load_state_dict(module.state_dict())
    program = session.capture(module, (x().requires_grad_(),))
    results = []
    for function, owner in ((program, module), (twin, twin)):
        given = x().requires_grad_()
        function(given).sum().backward()
        results.append([given.grad, *(each.grad for each in owner.parameters())])
    torch.testing.assert_close(*results)
    assert all(gradient is not None for gradient in results[0])


def test_a_captured_parameter_that_needs_a_gradient_is_not_lost(session: hopyard.Session) -> None:
    """Gradients are on, but no operand needs one."""
    module = Layer()
    program = session.capture(module, (x(),))
    program(x()).sum().backward()
    found = [parameter.grad for parameter in module.parameters()]
    module.zero_grad()
    module(x()).sum().backward()
    torch.testing.assert_close(found, [parameter.grad for parameter in module.parameters()])


def branch(a: Tensor) -> Tensor:
    b = a * 2
    if b.sum() > 0:
        return b
    return a


def prints(a: Tensor) -> Tensor:
    b = a * 2
    print("seen")
    return b


def writes_a_global(a: Tensor) -> Tensor:
    global COUNTER
    COUNTER += 1
    return a


def writes_a_global_inside(a: Tensor) -> Tensor:
    def inner() -> None:
        global COUNTER
        COUNTER = 5

    inner()
    return a


def reads_a_file(a: Tensor) -> Tensor:
    b = a * 2
    return b * len(open(__file__).name)


def calls_what_branches(a: Tensor) -> Tensor:
    return branch(a) + 1


REFUSED: list[tuple[Callable[[Tensor], Tensor], Callable[..., Any], int]] = [
    (branch, branch, 2),
    (prints, prints, 2),
    (writes_a_global, writes_a_global, 2),
    (writes_a_global_inside, writes_a_global_inside, 3),
    (reads_a_file, reads_a_file, 2),
    (calls_what_branches, branch, 2),
]


@pytest.mark.filterwarnings("ignore:Dynamo does not know:UserWarning")
@pytest.mark.parametrize(
    ("body", "where", "line"), REFUSED, ids=lambda each: getattr(each, "__name__", "")
)
def test_what_it_cannot_see_is_refused_at_its_line(
    body: Callable[[Tensor], Tensor],
    where: Callable[..., Any],
    line: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = COUNTER
    with pytest.raises(UnsupportedError) as raised:
        strict_mode(body, (x(),))
    error = raised.value
    assert error.location is not None
    assert (error.location.file, error.location.line) == (
        __file__,
        where.__code__.co_firstlineno + line,
    )
    assert error.stage == "strict"
    assert error.hint
    assert capsys.readouterr().out == ""
    assert before == COUNTER


def test_a_branch_on_a_value_is_refused_in_a_capture_too(session: hopyard.Session) -> None:
    with pytest.raises(UnsupportedError) as raised:
        session.capture(lambda a: strict_mode(branch, (a,)), (x(),))
    assert raised.value.location.line == branch.__code__.co_firstlineno + 2


def test_an_operand_changed_in_place_is_refused_in_a_capture(session: hopyard.Session) -> None:
    def body(a: Tensor) -> Tensor:
        return a.add_(1)

    given = x()
    with pytest.raises(UnsupportedError, match="in place"):
        session.capture(lambda a: strict_mode(body, (a,)), (given,))
    torch.testing.assert_close(given, x())


@pytest.mark.parametrize(
    ("body", "operands", "word"),
    [
        (torch.sin, x(), "tuple"),
        (torch.sin, {"a": x()}, "tuple"),
        (torch.sin, None, "tuple"),
        (3, (x(),), "function"),
        (None, (x(),), "function"),
    ],
)
def test_wrong_arguments_are_refused(
    session: hopyard.Session, body: Any, operands: Any, word: str
) -> None:
    with pytest.raises(UsageError, match=word):
        strict_mode(body, operands)
    with pytest.raises(UsageError, match=word):
        session.capture(lambda a: strict_mode(body, operands), (x(),))


def test_wrong_operands_raise_what_the_body_raises() -> None:
    with pytest.raises(TypeError, match="several"):
        strict_mode(several, (x(),))


def test_the_operator_takes_a_body_first() -> None:
    with pytest.raises(UsageError, match="body"):
        region(x())


def test_as_many_kinds_of_inputs_as_one_likes() -> None:
    """torch.compile gives a function up after eight."""
    dtypes = (torch.float32, torch.float64, torch.int32, torch.int64, torch.int16, torch.uint8)
    for dtype in dtypes:
        for rank in range(1, 4):
            given = torch.ones((2,) * rank, dtype=dtype)
            assert torch.equal(strict_mode(lambda a: a * 2, (given,)), given * 2)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_as_many_layers_as_one_likes() -> None:
    model = nn.Sequential(*(Layer() for _ in range(12)))
    expected = x()
    for layer in model:
        expected = layer.linear(expected) * layer.scale + WEIGHT + 1
    torch.testing.assert_close(model(x()), expected)


def test_it_is_right_inside_torch_compile() -> None:
    def program(a: Tensor) -> Tensor:
        return strict_mode(with_state, (a.sin(),)).cos()

    compiled = torch.compile(program, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x()), program(x()))


@pytest.mark.parametrize("mode", ["fake", "real"])
def test_torchs_tracer_keeps_the_region(mode: str) -> None:
    def program(a: Tensor) -> Tensor:
        shifted = a + 1
        return strict_mode(lambda b: b * shifted, (a,))

    graph = make_fx(program, tracing_mode=mode)(x())
    assert len(regions(graph)) == 1
    other = torch.randn(2, 3)
    torch.testing.assert_close(graph(other), program(other))


def test_torchs_export_accepts_it() -> None:
    with torch.no_grad():
        exported = torch.export.export(Layer(), (x(),), strict=False)
        module = Layer()
        module.load_state_dict(exported.state_dict, strict=False)
        torch.testing.assert_close(exported.module()(x()), module(x()))


def test_transforms_and_modes_see_the_body() -> None:
    def program(a: Tensor) -> Tensor:
        return strict_mode(lambda b: b @ b.t(), (a,)).sum()

    batch = torch.randn(4, 2, 3)
    expected = torch.stack([program(each) for each in batch])
    torch.testing.assert_close(torch.vmap(program)(batch), expected)
    given = x().requires_grad_()
    (slope,) = torch.autograd.grad(program(given), given)
    torch.testing.assert_close(torch.func.grad(program)(x()), slope)
    with FlopCounterMode(display=False) as counter:
        program(x())
    assert counter.get_total_flops() == 2 * 2 * 2 * 3


def test_threads_capture_regions_at_the_same_time(session: hopyard.Session) -> None:
    failures: list[BaseException] = []
    barrier = threading.Barrier(3)

    def work(factor: float) -> None:
        try:
            barrier.wait(timeout=10)
            for _ in range(5):
                program = session.capture(lambda a: strict_mode(lambda b: b * factor, (a,)), (x(),))
                assert len(regions(program.graph_module)) == 1
                torch.testing.assert_close(program(x()), x() * factor)
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work, args=(float(factor),)) for factor in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_region_that_fails_leaves_the_next_capture_alone(session: hopyard.Session) -> None:
    def failing(a: Tensor) -> Tensor:
        raise ValueError("inside")

    with pytest.raises(CaptureError, match="inside") as raised:
        session.capture(lambda a: strict_mode(failing, (a,)), (x(),))
    assert raised.value.location.line == failing.__code__.co_firstlineno + 1
    program = session.capture(lambda a: strict_mode(torch.sin, (a,)), (x(),))
    torch.testing.assert_close(program(x()), x().sin())


def test_importing_the_package_leaves_torch_alone() -> None:
    code = "import sys, hopyard_strict_mode; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
