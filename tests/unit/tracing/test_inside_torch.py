"""In and around torch's transforms, compilers and tensor subclasses, graphs are torch's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from functorch.compile import aot_function, make_boxed_func
from torch import Tensor, nn
from torch._functorch.aot_autograd import aot_export_joint_simple, aot_export_module
from torch._subclasses.functional_tensor import (
    FunctionalTensor,
    FunctionalTensorMode,
    dispatch_functionalize,
)
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import hopyard
from hopyard.errors import UnsupportedError
from hopyard.testing import assert_same_graph, describe_graph

func = torch.func
aten = torch.ops.aten


def pair() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 6), torch.randn(4, 6)


def trained() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 6, requires_grad=True), torch.randn(4, 6)


def smooth(x: Tensor, y: Tensor) -> Tensor:
    return (x.sin() * y).exp().sum()


def writes(x: Tensor, y: Tensor) -> Tensor:
    total = x + y
    total[0].mul_(2)
    total.t_()
    return total.relu_()


NESTED: dict[str, Callable[..., Any]] = {
    "functionalize-of-grad": func.functionalize(func.grad(smooth)),
    "functionalize-of-vmap": func.functionalize(
        func.vmap(lambda x, y: x.clone().add_(y).mul_(2)), remove="mutations_and_views"
    ),
    "grad-of-functionalize": func.grad(
        lambda x, y: func.functionalize(lambda a, b: a.clone().mul_(b).sum())(x, y)
    ),
    "vmap-of-jvp-of-grad": func.vmap(lambda x, y: func.jvp(func.grad(smooth), (x, y), (x, y))[1]),
    "vjp-of-vmap": lambda x, y: func.vjp(func.vmap(torch.sin), x)[1](y),
    "vmap-of-vjp": func.vmap(lambda x, y: func.vjp(torch.sin, x)[1](y)),
    "jvp-of-jvp": lambda x, y: func.jvp(lambda a: func.jvp(torch.sin, (a,), (y,))[1], (x,), (y,)),
    "grad-of-grad": func.grad(lambda x, y: func.grad(smooth)(x, y).sum()),
    "linearize": lambda x, y: func.linearize(torch.sin, x)[1](y),
    "vmap-in-chunks": lambda x, y: func.vmap(torch.dot, chunk_size=2)(x, y),
    "vmap-along-columns": func.vmap(lambda x, y: x * y, in_dims=1, out_dims=1),
    "functionalized-cond": func.functionalize(
        lambda x, y: torch.cond(x.sum() > 0, lambda a: a.clone().add_(1), lambda a: a.clone(), (x,))
    ),
    "dispatch-functionalize": dispatch_functionalize(writes),
}


# torch's own forward-mode rules are scripted, and its linearization makes graphs that warn.
@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("function", NESTED.values(), ids=NESTED)
def test_a_nest_of_transforms(function: Callable[..., Any], as_torch: Any) -> None:
    def program(x: Tensor, y: Tensor) -> Any:
        return function(x, y)

    as_torch(program, fresh=pair)


TRANSFORMS: dict[str, Callable[..., Any]] = {
    "vmap": torch.vmap,
    "grad": lambda f: func.grad(lambda x, y: f(x, y).sum()),
    "functionalize": func.functionalize,
    "vjp": lambda f: lambda x, y: func.vjp(f, x, y)[1](x),
    "jvp": lambda f: lambda x, y: func.jvp(f, (x, y), (x, y)),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("closes_over", [False, True], ids=["input", "closure"])
def test_a_capture_under_a_transform_is_refused(
    transform: Callable[..., Any], closes_over: bool, mode: Any
) -> None:
    def captured(x: Tensor, y: Tensor) -> Any:
        if closes_over:
            return hopyard.make_fx(lambda z: z * y, tracing_mode=mode)(torch.ones(6))
        return hopyard.make_fx(torch.mul, tracing_mode=mode)(x, y)

    with pytest.raises(UnsupportedError) as raised:
        transform(captured)(*pair())
    if not closes_over:
        assert "make_fx(torch.vmap(f))" in raised.value.hint
    assert torch._C._functorch.peek_interpreter_stack() is None


def test_why_a_capture_under_a_transform_is_refused() -> None:
    """The graph that torch makes there ignores its inputs."""
    graphs: list[GraphModule] = []

    def captured(x: Tensor, y: Tensor) -> Tensor:
        graphs.append(torch_make_fx(torch.mul)(x, y))
        return x

    torch.vmap(captured)(*pair())
    assert not any(node.users for node in graphs[0].graph.find_nodes(op="placeholder"))


def test_functional_tensors_made_by_the_program(as_torch: Any) -> None:
    def program(x: Tensor, y: Tensor) -> Tensor:
        with FunctionalTensorMode():
            result = writes(*[FunctionalTensor.to_functional(value) for value in (x, y)])
            torch._sync(result)
            return torch._from_functional_tensor(result.elem)

    graph_module = as_torch(program, fresh=pair)
    targets = [node.target for node in graph_module.graph.nodes if node.op == "call_function"]
    assert targets
    assert not any(target._schema.is_mutable for target in targets)


def through_aot_autograd(make_fx: Callable[..., Any], mode: str) -> tuple[list[Any], Tensor]:
    graphs: list[Any] = []

    def compiler(graph_module: GraphModule, example_inputs: list[Any]) -> Any:
        graphs.append(make_fx(graph_module, tracing_mode=mode)(*example_inputs))
        return make_boxed_func(graphs[-1])

    torch.manual_seed(0)
    x, y = trained()
    compiled = aot_function(lambda x, y: (x.sin() * y).exp(), compiler, compiler)
    compiled(x, y).sum().backward()
    assert x.grad is not None
    return graphs, x.grad


@pytest.mark.parametrize("mode", ["fake", "real"], indirect=True)
def test_a_capture_inside_an_aot_compiler(mode: str) -> None:
    ours, gradient = through_aot_autograd(hopyard.make_fx, mode)
    theirs, expected = through_aot_autograd(torch_make_fx, mode)
    assert len(ours) == len(theirs) == 2
    for actual, reference in zip(ours, theirs, strict=True):
        assert_same_graph(actual, reference)
    assert gradient.equal(expected)


def test_aot_autograd_inside_a_capture(as_torch: Any) -> None:
    def program(x: Tensor, y: Tensor) -> Any:
        return aot_function(lambda a, b: (a.sin() * b).exp(), lambda graph, _: graph)(x, y)

    as_torch(program, fresh=pair)


def test_what_aot_autograd_exported_is_captured_again(as_torch: Any) -> None:
    class Model(nn.Sequential):
        def forward(self, x: Tensor) -> tuple[Tensor]:
            return (super().forward(x),)

    module = Model(nn.Linear(6, 3), nn.BatchNorm1d(3), nn.ReLU())
    exported, _ = aot_export_module(module, [torch.randn(4, 6)], trace_joint=False)
    held = [value.detach().clone() for value in (*module.parameters(), *module.buffers())]

    as_torch(lambda *values: exported(*values), *held, torch.randn(4, 6))


def test_a_joint_graph_is_captured_again(as_torch: Any) -> None:
    joint = aot_export_joint_simple(
        lambda x, y: ((x * y).sum(),), list(trained()), trace_joint=True
    )
    as_torch(lambda x, y, tangent: joint([x, y], [tangent]), *pair(), torch.ones(()))


RECOMPUTED: dict[str, Callable[..., Any]] = {
    "saved-hooks": lambda x, y: torch.autograd.grad(
        checkpoint(smooth, x, y, use_reentrant=False), x
    ),
    "random": lambda x, y: torch.autograd.grad(
        checkpoint(
            lambda a, b: (torch.dropout(a, 0.5, True) * b).exp().sum(), x, y, use_reentrant=False
        ),
        x,
    ),
    "without-random-state": lambda x, y: torch.autograd.grad(
        checkpoint(smooth, x, y, use_reentrant=False, preserve_rng_state=False), x
    ),
    "in-sequence": lambda x, y: torch.autograd.grad(
        checkpoint_sequential([torch.sin, torch.exp, torch.cos], 2, x, use_reentrant=False).sum(), x
    ),
}


@pytest.mark.parametrize("program", RECOMPUTED.values(), ids=RECOMPUTED)
def test_a_checkpointed_program(program: Callable[..., Any], as_torch: Any) -> None:
    as_torch(program, fresh=trained)


def test_a_checkpoint_of_the_reentrant_kind(as_torch: Any) -> None:
    def program(x: Tensor, y: Tensor) -> Any:
        x.grad = None
        checkpoint(smooth, x, y, use_reentrant=True).backward()
        return x.grad

    as_torch(program, fresh=trained)


@pytest.mark.parametrize("disable", [torch._dynamo.disable, torch.compiler.disable])
def test_a_region_that_dynamo_leaves_alone(disable: Any, as_torch: Any) -> None:
    @disable  # type: ignore[untyped-decorator]
    def region(x: Tensor) -> Tensor:
        return x.sin() + 1

    as_torch(lambda x, y: region(x) * y, fresh=pair)


def test_dynamo_compiles_nothing_of_a_capture(mode: Any) -> None:
    """Whoever captures from a function that Dynamo compiles captures the function itself."""
    graphs: list[GraphModule] = []

    def captures(x: Tensor) -> Tensor:
        graphs.append(hopyard.make_fx(lambda y: (y * 2).sin(), tracing_mode=mode)(x))
        return x + 1

    x = torch.randn(3)
    assert torch.compile(captures, backend="eager")(x).equal(x + 1)
    assert_same_graph(graphs[0], torch_make_fx(lambda y: (y * 2).sin(), tracing_mode=mode)(x))
    torch._dynamo.reset()


class Tagged(Tensor):
    """Sees torch functions and no operators."""

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return super().__torch_function__(function, types, args, kwargs or {})


def test_a_subclass_of_two_tensors(as_torch: Any) -> None:
    as_torch(
        lambda x, y: (x * y).sin(),
        fresh=lambda: (TwoTensor(torch.randn(3), torch.randn(3)), torch.randn(3)),
    )


def test_a_subclass_made_and_taken_apart_by_the_program(as_torch: Any) -> None:
    def program(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        both = (TwoTensor(x, y) * 2).sin() + x
        return both.a, both.b

    as_torch(program, fresh=pair)


@pytest.mark.parametrize("mode", ["real"], indirect=True)
def test_a_subclass_that_the_program_closes_over(as_torch: Any) -> None:
    both = TwoTensor(torch.ones(4, 6), torch.zeros(4, 6))
    as_torch(lambda x, y: x * both, fresh=pair)


@pytest.mark.parametrize("mode", ["fake"], indirect=True)
def test_a_subclass_that_sees_functions_is_fake_as_any_other(as_torch: Any) -> None:
    as_torch(
        lambda x, y: (x * y).sin(),
        fresh=lambda: (torch.randn(3).as_subclass(Tagged), torch.randn(3)),
    )


@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors is in prototype:UserWarning")
def test_masked_tensors(as_torch: Any) -> None:
    def masked() -> list[Tensor]:
        made = torch.masked.masked_tensor(torch.randn(3), torch.tensor([True, False, True]))
        return [made]

    as_torch(lambda x: x * 2, fresh=masked)


@pytest.fixture(scope="module")
def mesh() -> Iterator[Any]:
    import torch.distributed as dist
    from torch.distributed.tensor import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield init_device_mesh("cpu", (2,))
    dist.destroy_process_group()


@pytest.mark.parametrize("placement", ["shard", "replicate"])
def test_distributed_tensors_as_inputs(placement: str, mesh: Any, as_torch: Any) -> None:
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    def distributed() -> list[Tensor]:
        second = Shard(0) if placement == "shard" else Replicate()
        return [
            distribute_tensor(torch.randn(4, 4), mesh, [Shard(0)]),
            distribute_tensor(torch.randn(4, 4), mesh, [second]),
        ]

    as_torch(lambda x, y: (x * y).sin() if placement == "shard" else x @ y, fresh=distributed)


def test_distributed_tensors_made_by_the_program(mesh: Any, as_torch: Any) -> None:
    from torch.distributed.tensor import DTensor, Replicate, Shard

    def program(x: Tensor, y: Tensor) -> Tensor:
        parts = [DTensor.from_local(value, mesh, [Shard(0)]) for value in (x, y)]
        total = (parts[0] * parts[1]).sin()
        return total.redistribute(mesh, [Replicate()]).to_local() + 1

    as_torch(program, fresh=pair)


def test_collectives(mesh: Any, as_torch: Any) -> None:
    import torch.distributed as dist
    import torch.distributed._functional_collectives as functional

    def program(x: Tensor, y: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return functional.all_reduce(y, "sum", dist.group.WORLD) + total

    as_torch(program, fresh=pair)


def captured_within(outer: Callable[..., Any], inner: Callable[..., Any], mode: str) -> list[Any]:
    graphs: list[Any] = []

    def program(x: Tensor, y: Tensor) -> Tensor:
        hidden = x + 1
        graphs.append(inner(lambda value: value * hidden, tracing_mode=mode)(y))
        result: Tensor = graphs[-1](y) + hidden
        return result

    torch.manual_seed(0)
    graphs.append(outer(program, tracing_mode=mode)(*pair()))
    return [describe_graph(graph) for graph in graphs]


# Running a symbolic graph inside a capture multiplies three sizes at once, which torch cannot.
@pytest.mark.parametrize("mode", ["fake", "real"], indirect=True)
@pytest.mark.parametrize("outer", [hopyard.make_fx, torch_make_fx], ids=["ours", "torch's"])
@pytest.mark.parametrize("inner", [hopyard.make_fx, torch_make_fx], ids=["ours", "torch's"])
def test_a_capture_that_closes_over_a_value_of_the_capture_around_it(
    outer: Callable[..., Any], inner: Callable[..., Any], mode: Any
) -> None:
    ours = captured_within(outer, inner, mode)
    assert len(ours) == 2
    assert ours == captured_within(torch_make_fx, torch_make_fx, mode)
