"""Script objects, opaque objects and generators in graphs, as torch holds them."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._higher_order_ops.torchbind import enable_torchbind_tracing
from torch._library.fake_class_registry import FakeScriptObject
from torch._library.opaque_object import OpaqueBase, register_opaque_type
from torch.fx.experimental import proxy_tensor
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx
from torch.testing._internal.torchbind_impls import (
    init_torchbind_implementations,
    load_torchbind_test_lib,
)

import hopyard
from hopyard.testing import assert_same_graph
from hopyard.tracing import get_slot, has_slot, set_slot

scripted = torch.ops._TorchScriptTesting


class Counter(OpaqueBase):
    """An opaque object with an identity."""

    def __init__(self, count: int) -> None:
        self.count = count


class Ratio:
    """An opaque value, as good as any that equals it."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ratio) and self.value == other.value

    def __hash__(self) -> int:
        return hash(self.value)

    def __fx_repr__(self) -> tuple[str, dict[str, type]]:
        return f"Ratio({self.value})", {"Ratio": Ratio}


class Parent(OpaqueBase):
    """An opaque object that can be made from its child."""

    def __init__(self) -> None:
        self.child = Child(self)


class Child(OpaqueBase):
    def __init__(self, parent: Parent) -> None:
        self.parent = parent


def parent_of(child: Child) -> Parent:
    return child.parent


def rebuilt_from_child(parent: Any, proxy_of: Any, tracer: Any) -> Any:
    child = proxy_of(parent.child)
    if child is None:
        return None
    return tracer.create_proxy("call_function", parent_of, (child,), {})


register_opaque_type(Counter, typ="reference")
register_opaque_type(Ratio, typ="value")
register_opaque_type(Child, typ="reference")
register_opaque_type(Parent, typ="reference", reconstruct_fn=rebuilt_from_child)


@torch.library.custom_op("hopyard_objects::count", mutates_args=())
def count(x: Tensor, counter: Counter) -> Tensor:
    return x + counter.count


@count.register_fake
def _(x: Tensor, counter: Counter) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("hopyard_objects::scale", mutates_args=())
def scale(x: Tensor, ratio: Ratio) -> Tensor:
    return x * ratio.value


@scale.register_fake
def _(x: Tensor, ratio: Ratio) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("hopyard_objects::adopt", mutates_args=())
def adopt(x: Tensor, parent: Parent) -> Tensor:
    return x + 1


@adopt.register_fake
def _(x: Tensor, parent: Parent) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("hopyard_objects::raise_child", mutates_args=())
def raise_child(x: Tensor, child: Child) -> Tensor:
    return x + 1


@raise_child.register_fake
def _(x: Tensor, child: Child) -> Tensor:
    return torch.empty_like(x)


CLOSED_OVER = Counter(3)


def with_counter() -> tuple[Tensor, Counter]:
    return torch.ones(2), Counter(2)


OPAQUE: dict[str, tuple[Callable[..., Any], Callable[[], Any]]] = {
    "closed-over-twice": (
        lambda x: count(x, CLOSED_OVER) + count(x, CLOSED_OVER),
        lambda: [torch.ones(2)],
    ),
    "input": (lambda x, c: count(x, c) + count(x, CLOSED_OVER), with_counter),
    "input-returned": (lambda x, c: (count(x, c), c), with_counter),
    "value-closed-over": (lambda x: scale(x, Ratio(0.5)), lambda: [torch.ones(2)]),
    "value-input": (lambda x, r: (scale(x, r), r), lambda: [torch.ones(2), Ratio(0.5)]),
}


@pytest.mark.parametrize(("function", "inputs"), OPAQUE.values(), ids=OPAQUE)
def test_opaque_objects(function: Any, inputs: Any, as_torch: Any) -> None:
    as_torch(function, fresh=inputs)


def test_an_opaque_input_is_read_from_the_input(mode: Any) -> None:
    graph_module = hopyard.make_fx(count, tracing_mode=mode)(torch.ones(2), Counter(2))
    assert graph_module(torch.ones(2), Counter(5)).equal(torch.full((2,), 6.0))


@pytest.mark.parametrize("mode", ["fake"], indirect=True)
def test_an_opaque_object_is_made_from_one_that_is_an_input(mode: Any) -> None:
    parent = Parent()

    def function(x: Tensor, child: Any) -> Tensor:
        return adopt(raise_child(x, child), parent)

    ours, theirs = (
        make_fx(function, tracing_mode=mode)(torch.ones(2), parent.child)
        for make_fx in (hopyard.make_fx, torch_make_fx)
    )
    assert_same_graph(ours, theirs)
    assert ours.graph.find_nodes(op="call_function", target=parent_of)
    assert not ours.graph.find_nodes(op="get_attr")


@pytest.fixture(scope="module")
def torchbind() -> Iterator[Any]:
    load_torchbind_test_lib()
    init_torchbind_implementations()
    with enable_torchbind_tracing():
        yield torch.classes._TorchScriptTesting


def uses_queue(x: Tensor, queue: Any) -> Any:
    queue.push(x.cos())
    queue.push(x.sin())
    return queue.pop() - queue.size(), queue


SCRIPTED: dict[str, Callable[..., Any]] = {
    "method": lambda x, foo: foo.add_tensor(x),
    "operator": lambda x, foo: scripted.takes_foo(foo, x),
    "list": lambda x, foo: scripted.takes_foo_list_return(foo, x),
    "tuple": lambda x, foo: scripted.takes_foo_tuple_return(foo, x),
    "returned": lambda x, foo: (scripted.takes_foo(foo, x), foo),
}


@pytest.mark.parametrize("function", SCRIPTED.values(), ids=SCRIPTED)
@pytest.mark.parametrize("closes_over", [False, True], ids=["input", "closure"])
def test_script_objects(function: Any, closes_over: bool, torchbind: Any, as_torch: Any) -> None:
    held = torchbind._Foo(10, 20)
    if closes_over:
        as_torch(lambda x: function(x, held), fresh=lambda: [torch.ones(2, 3)])
    else:
        as_torch(function, fresh=lambda: [torch.ones(2, 3), torchbind._Foo(10, 20)])


def test_methods_that_change_a_script_object(torchbind: Any, as_torch: Any) -> None:
    as_torch(
        uses_queue,
        fresh=lambda: [torch.ones(2, 3), torchbind._TensorQueue(torch.empty(0).fill_(-1))],
    )


def test_one_script_object_given_twice(torchbind: Any, as_torch: Any) -> None:
    def twice() -> list[Any]:
        foo = torchbind._Foo(10, 20)
        return [torch.ones(2, 3), foo, foo]

    as_torch(
        lambda x, one, other: scripted.takes_foo(one, x) + scripted.takes_foo(other, x),
        fresh=twice,
    )


@pytest.mark.parametrize("mode", ["real"], indirect=True)
def test_a_script_object_has_the_node_set_last(torchbind: Any, mode: Any) -> None:
    def function(x: Tensor, foo: Any) -> Tensor:
        assert get_slot(foo).op == "placeholder"
        set_slot(foo, get_slot(x))
        assert get_slot(foo) is get_slot(x)
        return x + 1

    hopyard.make_fx(function, tracing_mode=mode)(torch.ones(2, 3), torchbind._Foo(1, 2))


def test_fake_objects_of_one_object_have_the_node_set_first() -> None:
    from torch._library.fake_class_registry import maybe_to_fake_obj
    from torch._subclasses import FakeTensorMode

    real, mode = Counter(1), FakeTensorMode()
    one, other = maybe_to_fake_obj(mode, real), maybe_to_fake_obj(mode, real)

    def accessors(tracer: Any, is_ours: bool) -> list[str]:
        nodes = [tracer.graph.placeholder(name) for name in ("first", "second")]
        if is_ours:
            set_slot(one, nodes[0])
            set_slot(other, nodes[1])
            return [get_slot(value).name for value in (one, other)]
        for value, node in zip((one, other), nodes, strict=True):
            proxy_tensor.set_proxy_slot(value, tracer, torch.fx.Proxy(node, tracer))
        return [proxy_tensor.get_proxy_slot(value, tracer).node.name for value in (one, other)]

    def function(x: Tensor) -> Tensor:
        tracer: Any = proxy_tensor.get_proxy_mode().tracer  # type: ignore[union-attr]
        is_ours = not isinstance(tracer, proxy_tensor.PythonKeyTracer)
        names.append(accessors(tracer, is_ours))
        assert not is_ours or has_slot(maybe_to_fake_obj(mode, real))
        return x

    names: list[list[str]] = []
    for make_fx in (hopyard.make_fx, torch_make_fx):
        make_fx(function)(torch.ones(1))
    assert names == [["first", "first"]] * 2
    assert isinstance(one, FakeScriptObject)


def noise(x: Tensor) -> Tensor:
    generator = torch.Generator()
    generator.manual_seed(3)
    return x + torch.rand(2, generator=generator)


def test_a_generator_of_the_program(as_torch: Any) -> None:
    graph_module = as_torch(noise, fresh=lambda: [torch.ones(2)])
    assert len(graph_module.graph.find_nodes(op="get_attr")) == 1


def test_a_generator_that_is_an_input(mode: Any) -> None:
    """torch reads it from an attribute, the example's, since its Python object is another."""

    def function(x: Tensor, generator: torch.Generator) -> Tensor:
        return x + torch.rand(2, generator=generator) + torch.rand(2, generator=generator)

    graph_module = hopyard.make_fx(function, tracing_mode=mode)(torch.ones(2), torch.Generator())
    assert not graph_module.graph.find_nodes(op="get_attr")
    results = [
        run(torch.ones(2), torch.Generator().manual_seed(5)) for run in (graph_module, function)
    ]
    assert results[0].equal(results[1])


class Color(enum.Enum):
    RED = 1


@dataclass
class Result:
    total: Tensor
    count: int


class Lowered:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __fx_create_arg__(self, tracer: Any) -> Any:
        return tracer.create_node("call_function", Lowered, (tracer.create_arg(self.value),), {})


HELD: dict[str, Any] = {
    "enum": Color.RED,
    "range": range(1, 5, 2),
    "slice": slice(0, 3),
    "operator": torch.ops.aten.sin.default,
    "higher-order operator": torch.ops.higher_order.cond,
    "tree": torch.utils._pytree.tree_structure([1, {"a": 2}]),
    "ellipsis": ...,
    "dataclass of numbers": Result(3, 4),  # type: ignore[arg-type]
    "lowered": Lowered(3),
}


@pytest.mark.parametrize("value", HELD.values(), ids=HELD)
def test_what_else_a_graph_can_hold(value: Any, as_torch: Any) -> None:
    as_torch(lambda x: (x + 1, value), fresh=lambda: [torch.ones(2)])


@pytest.mark.parametrize("kind", [lambda x: Result(x, 4), Lowered], ids=["dataclass", "lowered"])
def test_a_tensor_in_an_output_of_the_users_own_type(kind: Any, mode: Any) -> None:
    """It is the one that was computed; torch's graph returns the example's."""
    graph_module = hopyard.make_fx(lambda x: kind(x + 1), tracing_mode=mode)(torch.ones(2))
    held = next(iter(vars(graph_module(torch.zeros(2))).values()))
    assert held.equal(torch.ones(2))
