"""The operator that calls a lowered partition, on every surface."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import hopyard
from hopyard.errors import ProgramError, UsageError
from hopyard_executorch_delegate import LoweredModule, ReferenceBackend, call_delegate
from hopyard_hookspecs import Lowered, Support


def lower(function: Callable[..., Any], *inputs: Any, backend: Any = None) -> LoweredModule:
    with torch.no_grad():
        graph_module = hopyard.make_fx(function, tracing_mode="fake")(*inputs)
    backend = backend or ReferenceBackend()
    return LoweredModule(backend.lower(graph_module, {}), backend)


def weighted(x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    y = (x * weight).tanh()
    return y.sum(-1), y.argmax(-1), y.detach() * 2, x @ weight.exp()


X = torch.linspace(-1, 1, 6).reshape(2, 3)
WEIGHT = torch.linspace(1, 2, 3)


@pytest.fixture
def lowered() -> LoweredModule:
    return lower(weighted, X, WEIGHT)


class Loud:
    """A backend that runs nothing of its reference graph, so that one sees which of the two ran."""

    def supports(self, node: Any) -> Support:
        return Support(True)

    def lower(self, partition: Any, options: Any) -> Lowered:
        return Lowered(partition, "loud", b"loud")

    def run(self, lowered: Lowered, /, *operands: Any) -> tuple[Any, ...]:
        return tuple(torch.full_like(operand, 77.0) for operand in operands[:1])


def loud(function: Callable[..., Any] = lambda x: (x.sin(),)) -> LoweredModule:
    return lower(function, X, backend=Loud())


class TestEager:
    def test_a_call_is_what_the_partition_computes(self, lowered: LoweredModule) -> None:
        assert_close(call_delegate(lowered, X, WEIGHT), weighted(X, WEIGHT))
        assert_close(lowered(X, WEIGHT), weighted(X, WEIGHT))

    def test_it_is_the_backend_that_runs(self) -> None:
        assert_close(call_delegate(loud(), X), (torch.full((2, 3), 77.0),))

    def test_the_backend_runs_without_gradients_even_on_parameters(self) -> None:
        with torch.no_grad():
            (output,) = call_delegate(loud(), nn.Parameter(X))
        assert_close(output, torch.full((2, 3), 77.0))

    def test_a_deep_copy_computes_the_same_and_is_independent(self, lowered: LoweredModule) -> None:
        copied = copy.deepcopy(nn.Sequential(lowered))[0]
        assert copied is not lowered
        assert copied.original_module is not lowered.original_module
        assert copied.processed_bytes == lowered.processed_bytes
        assert_close(call_delegate(copied, X, WEIGHT), weighted(X, WEIGHT))

    def test_it_refuses_to_be_pickled(self, lowered: LoweredModule) -> None:
        with pytest.raises(ProgramError, match="not pickled"):
            pickle.dumps(lowered)

    def test_the_reference_graph_is_no_submodule(self, lowered: LoweredModule) -> None:
        assert list(lowered.modules()) == [lowered]

    @pytest.mark.parametrize(
        "args", [(), (X,), (torch.sin, X), (nn.ReLU(), X), (None,)], ids=lambda args: str(args)[:20]
    )
    def test_a_wrong_first_argument_is_refused(self, args: tuple[Any, ...]) -> None:
        with pytest.raises(UsageError, match="takes a lowered partition first") as caught:
            call_delegate(*args)
        assert "LoweredModule" in caught.value.hint

    def test_fx_containers_are_handed_over_as_plain_ones(self) -> None:
        seen: list[Any] = []

        class Curious(Loud):
            def run(self, lowered: Lowered, /, *operands: Any) -> tuple[Any, ...]:
                seen.extend(operands)
                return (operands[0][0],)

        module = LoweredModule(loud().lowered, Curious())
        graph = torch.fx.Graph()
        x = graph.placeholder("x")
        target = graph.get_attr("module")
        graph.output(graph.call_function(call_delegate, (target, [x, [x]], {"key": [1]})))
        holder = torch.fx.GraphModule({"module": module}, graph)
        torch.fx.Interpreter(holder).run(X)
        assert [type(each) for each in (seen[0], seen[0][1], seen[1], seen[1]["key"])] == [
            list,
            list,
            dict,
            list,
        ]

    @pytest.mark.parametrize(
        ("returned", "said"),
        [
            (lambda x: (x.to(torch.float64),), r"float64\[2, 3\] on cpu.*float32\[2, 3\] on cpu"),
            (lambda x: (x[0],), r"float32\[3\] on cpu.*float32\[2, 3\]"),
            (lambda x: (x, x), r"float32\[2, 3\] on cpu, float32"),
            (lambda x: x, "a Tensor"),
            (lambda x: None, "a NoneType"),
            (lambda x: (None,), r"\(NoneType\)"),
        ],
    )
    def test_a_backend_that_returns_something_else_is_named(
        self, returned: Callable[..., Any], said: str
    ) -> None:
        class Lying(Loud):
            def run(self, lowered: Lowered, /, *operands: Any) -> tuple[Any, ...]:
                return returned(*operands)

        module = LoweredModule(loud().lowered, Lying())
        with pytest.raises(ProgramError, match=f"'loud' returned .*{said}"):
            call_delegate(module, X)

    def test_a_backend_that_raises_is_named(self) -> None:
        class Broken(Loud):
            def run(self, lowered: Lowered, /, *operands: Any) -> tuple[Any, ...]:
                raise RuntimeError("no power")

        with pytest.raises(RuntimeError, match="no power") as caught:
            call_delegate(LoweredModule(loud().lowered, Broken()), X)
        assert "'loud'" in caught.value.__notes__[0]


class TestAutocast:
    """A partition computes what was captured: autocast around a call changes nothing."""

    @pytest.fixture
    def product(self) -> LoweredModule:
        return lower(lambda x, y: (x @ y,), X, X.t())

    @pytest.mark.parametrize("grad", [False, True])
    def test_a_call_computes_as_without(self, grad: bool, product: LoweredModule) -> None:
        x = X.clone().requires_grad_(grad)
        with torch.autocast("cpu", torch.bfloat16):
            (output,) = call_delegate(product, x, X.t())
            assert (X @ X.t()).dtype is torch.bfloat16
        assert_close(output, x @ X.t())
        if grad:
            output.sum().backward()
            assert_close(x.grad, X.sum(0).expand(2, 3))

    @pytest.mark.parametrize("make_fx", [hopyard.make_fx, torch_make_fx], ids=["ours", "torch's"])
    def test_a_tracer_sees_the_same_types(self, make_fx: Any, product: LoweredModule) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            graph_module = make_fx(lambda x: call_delegate(product, x, X.t())[0])(X)
        (call,) = graph_module.graph.find_nodes(op="call_function", target=call_delegate)
        assert [value.dtype for value in call.meta["val"]] == [torch.float32]

    @pytest.mark.parametrize(
        "key",
        ["PythonDispatcher", "PythonTLSSnapshot", "ADInplaceOrView", "AutocastCPU", "AutocastCUDA"],
    )
    def test_keys_that_mean_nothing_to_it_fall_through(self, key: str) -> None:
        assert not call_delegate.non_fallthrough_keys.has(getattr(torch._C.DispatchKey, key))


loads_decompositions = pytest.mark.filterwarnings("ignore:.*jit.script:DeprecationWarning")
"""torch scripts its own formulas when forward mode is first used."""


class TestGradients:
    def test_they_are_those_of_eager(self, lowered: LoweredModule) -> None:
        found = [X.clone().requires_grad_(), WEIGHT.clone().requires_grad_()]
        expected = [X.clone().requires_grad_(), WEIGHT.clone().requires_grad_()]
        outputs, eager = call_delegate(lowered, *found), weighted(*expected)
        assert [each.requires_grad for each in outputs] == [each.requires_grad for each in eager]
        assert_close(outputs, eager)
        (outputs[0].sum() + outputs[3].square().sum()).backward()
        (eager[0].sum() + eager[3].square().sum()).backward()
        assert_close([each.grad for each in found], [each.grad for each in expected])

    def test_they_can_be_differentiated_again(self, lowered: LoweredModule) -> None:
        assert torch.autograd.gradgradcheck(
            lambda x, weight: call_delegate(lowered, x, weight)[0],
            (X.double().requires_grad_(), WEIGHT.double().requires_grad_()),
        )

    def test_integers_and_none_never_require_them(self) -> None:
        def some(x: Tensor) -> tuple[Any, ...]:
            return x.argmax(), None, x > 0, x * 2

        module = lower(some, X)
        argmax, nothing, positive, twice = call_delegate(module, X.clone().requires_grad_())
        assert (argmax.requires_grad, nothing, positive.requires_grad) == (False, None, False)
        assert twice.requires_grad
        assert call_delegate(module, X)[1] is None

    @loads_decompositions
    def test_transforms_see_the_reference_graph(self, lowered: LoweredModule) -> None:
        def through(x: Tensor) -> Tensor:
            return call_delegate(lowered, x, WEIGHT)[0].sum()

        def eager(x: Tensor) -> Tensor:
            return weighted(x, WEIGHT)[0].sum()

        assert_close(torch.func.grad(through)(X), torch.func.grad(eager)(X))
        assert_close(torch.func.jacrev(through)(X), torch.func.jacrev(eager)(X))
        tangents = (X.cos(),)
        assert_close(torch.func.jvp(through, (X,), tangents), torch.func.jvp(eager, (X,), tangents))
        batch = torch.stack([X, X * 2])
        assert_close(torch.vmap(through)(batch), torch.vmap(eager)(batch))

    @loads_decompositions
    def test_forward_mode_sees_the_reference_graph(self) -> None:
        with forward_ad.dual_level():
            (output,) = call_delegate(loud(), forward_ad.make_dual(X, torch.ones_like(X)))
            assert_close(forward_ad.unpack_dual(output).tangent, X.cos())

    def test_they_reach_the_parameters_of_a_delegated_program(self, delegated: Any) -> None:
        module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        x, x_eager = X.clone().requires_grad_(), X.clone().requires_grad_()
        program = delegated(module, x)
        program(x).sum().backward()
        parameters = {
            name: each.detach().requires_grad_() for name, each in module.named_parameters()
        }
        functional_call(module, parameters, (x_eager,)).sum().backward()
        assert_close(x.grad, x_eager.grad)
        found = {name: each.grad for name, each in module.named_parameters()}
        assert_close(found, {name: each.grad for name, each in parameters.items()})

    def test_torchs_own_operator_loses_them(self, lowered: LoweredModule) -> None:
        from torch._higher_order_ops.executorch_call_delegate import executorch_call_delegate

        class LoweredBackendModule(nn.Module):
            class original_module:
                @staticmethod
                def module() -> Any:
                    return lowered.original_module

        x = X.clone().requires_grad_()
        outputs = executorch_call_delegate(LoweredBackendModule(), x, WEIGHT)
        outputs[0].sum().backward()
        assert outputs[0].requires_grad
        assert x.grad is None


class Around(nn.Module):
    def __init__(self, module: LoweredModule) -> None:
        super().__init__()
        self.inner = module

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return call_delegate(self.inner, x.cos(), weight)[0] + 1


def calls(graph: torch.fx.Graph) -> int:
    return len(graph.find_nodes(op="call_function", target=call_delegate))


class TestTracing:
    @pytest.mark.parametrize("mode", ["real", "fake"])
    @pytest.mark.parametrize("make_fx", [hopyard.make_fx, torch_make_fx], ids=["ours", "torch's"])
    def test_a_tracer_records_one_call(
        self, make_fx: Any, mode: str, lowered: LoweredModule
    ) -> None:
        around = Around(lowered)
        graph_module = make_fx(lambda *args: around(*args), tracing_mode=mode)(X, WEIGHT)
        assert calls(graph_module.graph) == 1
        (node,) = graph_module.graph.find_nodes(op="call_function", target=call_delegate)
        assert node.args[0].op == "get_attr"
        assert getattr(graph_module, node.args[0].target) is lowered
        assert [tuple(value.shape) for value in node.meta["val"]] == [(2,), (2,), (2, 3), (2,)]
        assert node.meta["val"][1].dtype is torch.int64
        assert_close(graph_module(X * 2, WEIGHT), around(X * 2, WEIGHT))

    @pytest.mark.parametrize("make_fx", [hopyard.make_fx, torch_make_fx], ids=["ours", "torch's"])
    def test_two_calls_of_one_partition_share_it(
        self, make_fx: Any, lowered: LoweredModule
    ) -> None:
        def twice(x: Tensor) -> Tensor:
            (first, *_) = call_delegate(lowered, x, WEIGHT)
            (second, *_) = call_delegate(lowered, x + first[0], WEIGHT)
            return first + second

        graph_module = make_fx(twice)(X)
        assert calls(graph_module.graph) == 2
        assert [child for child in graph_module.children() if child is lowered] == [lowered]
        assert_close(graph_module(X), twice(X))

    def test_a_capture_keeps_it(self, session: Any, lowered: LoweredModule) -> None:
        around = Around(lowered)
        program = session.capture(around, (X, WEIGHT))
        assert calls(program.graph) == 1
        assert_close(program(X, WEIGHT), around(X, WEIGHT))

    def test_a_delegated_program_can_be_captured(self, session: Any, delegated: Any) -> None:
        program = delegated(lambda x: (x.sin() * 2).sum(), X)
        again = session.capture(program, (X,))
        assert calls(again.graph) == 1
        assert_close(again(X), program(X))

    @pytest.mark.parametrize("make_fx", [hopyard.make_fx, torch_make_fx], ids=["ours", "torch's"])
    def test_a_capture_with_gradients_has_the_right_ones(
        self, make_fx: Any, lowered: LoweredModule
    ) -> None:
        def gradient(x: Tensor) -> Tensor:
            x = x.detach().requires_grad_()
            (result,) = torch.autograd.grad(call_delegate(lowered, x, WEIGHT)[0].sum(), x)
            return result

        assert_close(make_fx(gradient)(X)(X * 2), gradient(X * 2))

    @pytest.mark.parametrize("make_fx", [hopyard.make_fx, torch_make_fx], ids=["ours", "torch's"])
    def test_functionalization_keeps_it(self, make_fx: Any, lowered: LoweredModule) -> None:
        def writes(x: Tensor) -> Tensor:
            y = x.clone()
            y.add_(1)
            return call_delegate(lowered, y, WEIGHT)[0].mul_(2)

        graph_module = make_fx(torch.func.functionalize(writes))(X)
        assert calls(graph_module.graph) == 1
        assert not any("_." in str(node.target) for node in graph_module.graph.nodes)
        assert_close(graph_module(X), writes(X))

    def test_a_wrong_first_argument_is_refused_while_tracing_too(self) -> None:
        with pytest.raises(UsageError, match="takes a lowered partition first"):
            hopyard.make_fx(lambda x: call_delegate(x, x))(X)

    def test_an_unknown_mode_sees_the_operators(self) -> None:
        seen = []

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(
                self, func: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                seen.append(str(func))
                return func(*args, **(kwargs or {}))

        with Watch():
            (output,) = call_delegate(loud(lambda x: (x.sin(),)), X)
        assert seen[-1] == "aten.sin.default"
        assert_close(output, X.sin())


def test_bytes_are_what_runs(lowered: LoweredModule) -> None:
    changed = lowered.processed_bytes.replace(b"aten.tanh.default", b"aten.exp.default")
    tampered = LoweredModule(
        dataclasses.replace(lowered.lowered, processed_bytes=changed), ReferenceBackend()
    )
    assert_close(call_delegate(tampered, X, WEIGHT)[0], (X * WEIGHT).exp().sum(-1))
