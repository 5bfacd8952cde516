"""Each node says where it comes from in the words of torch's tracer: all of its metadata."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Interpreter, traceback
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx

import hopyard
from hopyard.tracing import node_location

aten = torch.ops.aten
cond = torch.ops.higher_order.cond


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.linear(x)) + 1


class Nested(nn.Module):
    """Modules within modules, one called twice, and results of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Block()
        self.second = nn.Sequential(Block(), nn.Dropout(0.5))
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Any:
        x = self.second(self.first(self.second(x))) * self.scale
        return torch.split(x, 1, -1), x.shape[0], None


class Shared(nn.Module):
    """Modules with several paths, reached by all of them, and slices of containers."""

    def __init__(self) -> None:
        super().__init__()
        self.one = Block()
        self.other = self.one
        self.blocks = nn.ModuleList([self.one, self.one, Block()])
        self.steps = nn.Sequential(nn.ReLU(), nn.Tanh())

    def forward(self, x: Tensor) -> Any:
        x = self.other(self.one(x))
        for block in self.blocks:
            x = block(x)
        x = self.blocks[1](x)
        for block in self.blocks[1:]:
            x = block(x)
        return (self.steps(self.steps[:1](x)) + self.one.linear.weight.sum(),)


class Branches(nn.Module):
    """A higher-order operator whose bodies call modules and use parameters around them."""

    def __init__(self) -> None:
        super().__init__()
        self.one = Block()
        self.other = Block()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Any:
        x = self.one(x) * self.scale
        (x,) = cond(x.sum() > 0, lambda y: (self.one(y) * 2,), lambda y: (self.other(y),), (x,))
        return x, x + self.scale


class Encoder(nn.Module):
    """Takes its fused path only where no function mode is active."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()

    def forward(self, x: Tensor) -> Any:
        return (self.layer(x.reshape(1, 1, -1)[..., :4]),)


MODULES = {kind.__name__: kind for kind in (Nested, Shared, Branches, Encoder)}


def forward(module: nn.Module) -> Callable[..., Any]:
    def run(x: Tensor) -> Any:
        return module(x)

    run._orig_mod = module  # type: ignore[attr-defined]
    return run


def backward(module: nn.Module) -> Callable[..., Any]:
    def run(x: Tensor) -> Any:
        result = module(x)[0]
        result = result[0] if isinstance(result, tuple) else result
        return torch.autograd.grad(result.sum(), list(module.parameters()), allow_unused=True)

    run._orig_mod = module  # type: ignore[attr-defined]
    return run


@traceback.annotate_fn({"decorated": True})
def annotated_step(x: Tensor) -> Tensor:
    return x * 2


def annotated(module: nn.Module) -> Callable[..., Any]:
    def run(x: Tensor) -> Any:
        with traceback.annotate({"stage": 1}):
            result = module(x)[0]
            with traceback.annotate({"inner": "yes"}):
                result = (result[0] if isinstance(result, tuple) else result) * 2
        return annotated_step(result) + 1

    run._orig_mod = module  # type: ignore[attr-defined]
    return run


def copied(module: nn.Module) -> Callable[..., Any]:
    """Run a graph of the module node by node, as passes do that copy metadata."""
    with traceback.preserve_node_meta():
        graph_module = torch_make_fx(forward(module), record_module_stack=True)(inputs())

    class Copying(Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            with traceback.set_current_meta(n, "copying"):
                return super().run_node(n)

    def run(x: Tensor) -> Any:
        return Copying(graph_module).run(x)

    return run


def decomposed_addmm(bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    return aten.add(aten.mm(x, weight), bias)


DECOMPOSITIONS = {aten.addmm.default: decomposed_addmm}


def inputs() -> Tensor:
    return torch.arange(6.0).reshape(2, 3)


def metadata(graph_module: GraphModule, first: int | None = None) -> list[Any]:
    """Return the metadata of all nodes, those in bodies included, in a form that can be compared.

    Autograd's numbers count on from capture to capture; they are given from the first node's on.
    """
    told: list[Any] = []
    for node in graph_module.graph.nodes:
        first = node.meta.get("seq_nr") if first is None else first
        told.append((node.name, {key: comparable(key, node.meta[key], first) for key in node.meta}))
        body = getattr(graph_module, str(node.target), None) if node.op == "get_attr" else None
        if isinstance(body, GraphModule):
            told += metadata(body, first)
    return told


def comparable(key: str, value: Any, first: int | None) -> Any:
    if key == "seq_nr":
        return value - (first or 0)
    if key == "from_node":
        return [(each.name, each.target, each.pass_name, str(each.action)) for each in value]
    if key == "stack_trace":
        # The name of generated code says where in torch's or in our tracer it was made.
        return re.sub(r'"<eval_with_key>[^"]*"', '"<generated>"', value)
    if key == "torch_fn" and value[0].startswith(("__get__", "detach.default")):
        # torch counts what its own tracer asks of tensors among the calls of the program.
        return value[1]
    if key in ("val", "original_aten"):
        # torch's entry is a copy of the operator, which is not equal to it.
        return str(value)
    return value


def captures(
    function: Callable[..., Any], *, copying: bool = False, **options: Any
) -> Iterator[list[Any]]:
    """Yield torch's metadata and ours, made alike."""
    for make in (torch_make_fx, hopyard.make_fx):
        torch.compiler.reset()
        FakeTensorMode.cache_clear()
        torch.manual_seed(0)
        with traceback.preserve_node_meta(copying):
            yield metadata(make(function, **options)(inputs()))


@pytest.mark.parametrize(
    ("program", "copying", "options"),
    [
        (forward, False, {}),
        (forward, True, {"record_stack_traces": True}),
        (forward, False, {"_disable_torch_fn_metadata_mode": True}),
        (backward, False, {"record_module_stack": True}),
        (backward, True, {"record_module_stack": True, "decomposition_table": DECOMPOSITIONS}),
        (annotated, True, {"record_module_stack": True}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
@pytest.mark.parametrize("kind", MODULES.values(), ids=MODULES)
def test_the_metadata_of_every_node_is_torchs(
    kind: Callable[[], nn.Module], program: Any, options: Any, copying: bool, mode: str
) -> None:
    function = program(kind())
    expected, actual = captures(
        function, copying=copying, tracing_mode=mode, _allow_non_fake_inputs=True, **options
    )
    assert actual == expected


def test_what_follows_a_question_about_the_device_is_of_no_operator() -> None:
    def sized(x: Tensor) -> Any:
        return x.to("cpu").shape[0] * 2

    expected, actual = captures(sized, copying=True, tracing_mode="symbolic")
    assert actual == expected
    assert any(meta.get("original_aten") == "None" for _, meta in actual)


@pytest.mark.parametrize("module_stack", [False, True])
@pytest.mark.parametrize("kind", [Nested, Shared, Branches])
def test_what_is_copied_from_a_graph_is_what_torch_copies(
    kind: Callable[[], nn.Module], module_stack: bool, mode: str
) -> None:
    function = copied(kind())
    function._orig_mod = kind()  # type: ignore[attr-defined]
    expected, actual = captures(
        function,
        copying=True,
        tracing_mode=mode,
        _allow_non_fake_inputs=True,
        record_module_stack=module_stack,
        record_stack_traces=True,
    )
    assert actual == expected
    assert any("from_node" in meta for _, meta in actual)


def test_backward_nodes_are_those_of_the_forward_nodes_with_their_number() -> None:
    """What AOTAutograd arranges around a backward pass reaches the nodes."""

    def program(x: Tensor) -> Any:
        loss = x.sin()
        traceback.set_grad_fn_seq_nr(7)
        with traceback._set_autograd_backward():
            gradient = loss.cos()
        traceback.set_stack_trace([traceback.GRADIENT_ACC_SPECIAL_STACK, " here"])
        total = gradient + 1
        traceback.reset_grad_fn_seq_nr()
        traceback.set_stack_trace([])
        return total * 2

    expected, actual = captures(program, copying=True)
    assert actual == expected
    by_name = dict(actual)
    assert by_name["cos"]["autograd_backward"]
    assert by_name["add"]["is_gradient_acc"]


def test_a_replayed_view_takes_over_the_metadata_of_the_node_it_replays() -> None:
    given = torch.fx.Graph().placeholder("given")
    given.meta = {"custom": {"part": 1}, "stack_trace": "line", "seq_nr": 3}

    def program(x: Tensor) -> Tensor:
        with traceback.set_current_replay_node(given):
            return x.view(-1)

    expected, actual = captures(program, copying=True)
    assert actual == expected
    assert dict(actual)["view"]["is_functional_regenerated"]


def test_stack_traces_can_be_switched_off_for_all_of_fx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.fx.config, "do_not_emit_stack_traces", True)
    expected, actual = captures(forward(Nested()), record_stack_traces=True)
    assert actual == expected
    assert not any("stack_trace" in meta for _, meta in actual)


def test_the_compiler_can_demand_stack_traces() -> None:
    from torch._inductor import config

    with config.patch({"trace.provenance_tracking_level": 1}):
        expected, actual = captures(forward(Nested()))
    assert actual == expected
    assert any("stack_trace" in meta for _, meta in actual)


def test_recursion_is_shown_as_torch_shows_it() -> None:
    class Recursive(nn.Module):
        def forward(self, x: Tensor, depth: int = 6) -> Tensor:
            return self.forward(x.sin(), depth - 1) if depth else x

    expected, actual = captures(lambda x: Recursive()(x), record_stack_traces=True)
    assert actual == expected
    assert "Previous line repeated" in str(actual)


def test_the_location_of_a_node_is_the_users_line_not_torchs() -> None:
    graph_module = hopyard.make_fx(forward(Nested()), record_stack_traces=True)(inputs())
    (node,) = [node for node in graph_module.graph.nodes if node.name == "addmm"]
    assert "linear.py" in node.meta["stack_trace"].splitlines()[-2]
    location = node_location(node)
    assert location is not None
    assert location.file == __file__


def test_a_module_that_fails_leaves_the_stack() -> None:
    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ZeroDivisionError

    class Catching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.failing = Failing()

        def forward(self, x: Tensor) -> Tensor:
            with contextlib.suppress(ZeroDivisionError):
                self.failing(x)
            return x.sin()

    graph_module = hopyard.make_fx(forward(Catching()), record_module_stack=True)(inputs())
    (sin,) = graph_module.graph.find_nodes(op="call_function", target=aten.sin.default)
    assert list(sin.meta["nn_module_stack"]) == [""]


def plain_module_methods() -> tuple[Any, Any]:
    return nn.Module.__call__, nn.Module.__getattr__


@pytest.mark.parametrize("kind", [Nested, Shared])
def test_modules_are_as_before_after_a_capture_and_after_a_failure(kind: Any) -> None:
    before = plain_module_methods()
    module = kind()
    hopyard.make_fx(forward(module), record_module_stack=True)(inputs())
    assert plain_module_methods() == before
    with pytest.raises(hopyard.errors.CaptureError):
        hopyard.make_fx(forward(module), record_module_stack=True)(torch.ones(5, 5))
    assert plain_module_methods() == before
    assert type(module.get_submodule("one" if kind is Shared else "first")) is Block


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_modules_that_run_on_another_thread_meanwhile_are_unaffected(compiled: bool) -> None:
    shared = Shared()
    seen: dict[str, Any] = {}

    def elsewhere() -> None:
        other = torch.compile(shared, backend="eager") if compiled else shared
        seen["same"] = shared.one is shared.other
        seen["type"] = type(shared.blocks[0])
        seen["result"] = other(inputs())[0]
        seen["traced"] = metadata(hopyard.make_fx(lambda x: shared(x))(inputs()))

    class Meeting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = shared

        def forward(self, x: Tensor) -> Any:
            thread = threading.Thread(target=elsewhere)
            x = self.shared.one(x)
            thread.start()
            thread.join()
            return self.shared(x)[0], type(self.shared.one) is Block

    torch.compiler.reset()
    function = forward(Meeting())
    graph_module = hopyard.make_fx(function, record_module_stack=True)(inputs())
    assert seen["same"]
    assert seen["type"] is Block
    torch.testing.assert_close(seen["result"], shared(inputs())[0])
    assert not any("nn_module_stack" in meta for _, meta in seen["traced"])
    stacks = [list(node.meta.get("nn_module_stack", ())) for node in graph_module.graph.nodes]
    # The program itself reads views of shared modules; the other thread's calls do not count.
    assert ["", "shared.one", "shared.one.linear"] in stacks
    assert not any("@2" in key for stack in stacks for key in stack)


def test_a_view_of_a_shared_module_is_the_module_in_all_but_identity() -> None:
    told: dict[str, Any] = {}

    class Looking(Shared):
        def forward(self, x: Tensor) -> Any:
            view = self.one
            told["class"] = (isinstance(view, Block), type(view).__qualname__)
            told["state"] = view.linear.weight is self.other.linear.weight
            view.noted = 5
            told["copy"] = __import__("copy").deepcopy(view)
            return super().forward(x)

    module = Looking()
    hopyard.make_fx(forward(module), record_module_stack=True)(inputs())
    assert told["class"] == (True, "Block")
    assert told["state"]
    assert module.one.noted == 5
    assert type(told["copy"]) is Block


def test_parameters_are_found_by_looking_at_each_attribute_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch's tracer walks through all attributes for each parameter that it meets."""
    counted = {"looked at": 0}
    walk = nn.Module.named_parameters

    def counting(self: nn.Module, *args: Any, **kwargs: Any) -> Iterator[Any]:
        for item in walk(self, *args, **kwargs):
            counted["looked at"] += 1
            yield item

    def looked_at(make: Callable[..., Any], count: int) -> int:
        parameters = [nn.Parameter(torch.ones(2)) for _ in range(count)]
        monkeypatch.setattr(nn.Module, "named_parameters", counting)
        counted["looked at"] = 0
        make(lambda x: sum((x * each for each in parameters), x))(torch.ones(2))
        monkeypatch.undo()
        return counted["looked at"]

    assert looked_at(torch_make_fx, 40) > 3 * looked_at(torch_make_fx, 20) > 0
    assert looked_at(hopyard.make_fx, 40) <= 40
