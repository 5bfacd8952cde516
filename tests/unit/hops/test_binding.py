"""Names, identity and what a definition may say."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch._ops import HigherOrderOperator, _higher_order_ops

import hopyard
from hopyard.errors import DuplicateNameError, OptionError, UnknownNameError, UsageError
from hopyard.hops import SURFACES, Operator, bind, bound, provider_of
from hopyard_hookspecs import Hop

Define = Callable[..., Hop]


def test_one_definition_is_one_operator(define: Define) -> None:
    definition = define()
    operator = bind(definition)
    assert bind(definition) is operator
    assert bound(definition.name) is operator
    assert operator.definition is definition
    assert _higher_order_ops[definition.name] is operator
    assert getattr(torch.ops.higher_order, definition.name) is operator


def test_threads_that_bind_at_once_get_one_operator(define: Define) -> None:
    definitions = [define() for _ in range(20)]
    barrier = threading.Barrier(4)

    def bind_all(_: int) -> list[Operator]:
        barrier.wait(timeout=30)
        return [bind(definition) for definition in definitions]

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(bind_all, range(4))
    for other in others:
        assert all(one is another for one, another in zip(first, other, strict=True))


def test_threads_that_claim_one_name_get_it_once() -> None:
    definitions = [Hop("hop_tests__contested", lambda body, x: body(x)) for _ in range(8)]
    barrier = threading.Barrier(8)

    def claim(definition: Hop) -> Operator | DuplicateNameError:
        barrier.wait(timeout=30)
        try:
            return bind(definition)
        except DuplicateNameError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(claim, definitions))
    (winner,) = [outcome for outcome in outcomes if isinstance(outcome, Operator)]
    assert bound("hop_tests__contested") is winner
    assert _higher_order_ops["hop_tests__contested"] is winner


def test_a_second_definition_of_a_name_is_refused(define: Define) -> None:
    first = define(lambda body, x: body(x) + 1)
    operator = bind(first)
    rules = dict(operator.py_kernels)
    second = Hop(first.name, lambda body, x: body(x) + 2)
    with pytest.raises(DuplicateNameError) as raised:
        bind(second)
    assert raised.value.kind == "higher-order operator"
    assert raised.value.name == first.name
    assert raised.value.claimants == (provider_of(first), provider_of(second))
    assert bound(first.name) is operator
    assert _higher_order_ops[first.name] is operator
    assert operator.py_kernels == rules
    assert operator(torch.sin, torch.zeros(1)).item() == 1


def test_an_equal_definition_is_another_one(define: Define) -> None:
    first = define()
    bind(first)
    with pytest.raises(DuplicateNameError):
        bind(Hop(first.name))


def test_a_name_that_torch_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Foreign(HigherOrderOperator):
        def __call__(self, *args: Any) -> Any:
            return "torch's"

    foreign = Foreign("hop_tests__foreign")
    try:
        with pytest.raises(DuplicateNameError) as raised:
            bind(Hop("hop_tests__foreign"))
        assert raised.value.claimants[0].distribution == "torch"
        assert _higher_order_ops["hop_tests__foreign"] is foreign
        with pytest.raises(UnknownNameError):
            bound("hop_tests__foreign")
    finally:
        del _higher_order_ops["hop_tests__foreign"]


@pytest.mark.parametrize(
    "name", ["cond", "my.region", "a::b", "A__b", "a__", "__b", "a_b", "1__a", ""]
)
def test_a_name_that_torch_could_own_or_generated_code_not_carry_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="HOP name"):
        Hop(name)


def test_a_rule_for_an_unknown_surface_is_refused(define: Define) -> None:
    definition = define(rules={"autograde": lambda *args: None})
    with pytest.raises(OptionError) as raised:
        bind(definition)
    assert "autograd" in raised.value.hint
    assert definition.name not in _higher_order_ops
    with pytest.raises(UnknownNameError):
        bound(definition.name)
    corrected = Hop(definition.name)
    assert bind(corrected).definition is corrected


def test_an_unbound_name_lists_the_nearest(define: Define) -> None:
    definition = define()
    bind(definition)
    with pytest.raises(UnknownNameError) as raised:
        bound(definition.name + "x")
    assert raised.value.closest is not None
    assert definition.name in raised.value.valid


def test_a_provider_is_found_by_the_module_of_the_definition() -> None:
    from torch.nn.functional import relu

    assert provider_of(Hop("hop_tests__a", relu)).distribution == "torch"
    assert provider_of(Hop("hop_tests__a", lambda body: None)).distribution == "unpackaged"
    assert provider_of(Hop("hop_tests__a")).plugin == "hop-tests"


def test_a_region_needs_a_body(region: Operator) -> None:
    for wrong in ((), (torch.ones(1),), (None, torch.ones(1))):
        with pytest.raises(UsageError) as raised:
            region(*wrong)
        assert region.name() in raised.value.hint


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_copies_are_the_operator_itself(copied: Callable[[Any], Any], region: Operator) -> None:
    assert copied(region) is region
    assert copied({"operator": [region]})["operator"][0] is region


def test_an_operator_that_is_not_bound_here_cannot_be_unpickled() -> None:
    from hopyard.hops._operator import _by_name

    with pytest.raises(UnknownNameError):
        _by_name("hop_tests__never_bound")


def test_a_captured_graph_survives_copies(region: Operator) -> None:
    graph_module = hopyard.make_fx(lambda x: region(torch.sin, x, factor=3.0))(torch.ones(2))
    for copied in (copy.deepcopy(graph_module), pickle.loads(pickle.dumps(graph_module))):
        (call,) = copied.graph.find_nodes(op="call_function", target=region)
        assert call.name == region.name()
        assert copied(torch.zeros(2)).equal(torch.zeros(2))
        assert copied(torch.ones(2)).equal(3 * torch.ones(2).sin())


OVERRIDES = {
    "autograd": lambda operator, body, x: x + 1,
    "fake": lambda body, x: x.new_empty(7),
    "functionalize": lambda context, operator, body, x: x,
    "trace": lambda tracer, operator, args, kwargs: args[1],
    "torch-trace": lambda mode, operator, body, x: x,
    "transform": lambda interpreter, body, x: x,
    "dynamo": lambda call, translator, args, kwargs: args[1],
    "inductor": lambda body, x: x,
}


def test_every_surface_is_tried_here() -> None:
    assert OVERRIDES.keys() == SURFACES.keys()


def test_an_authors_rules_replace_the_defaults(define: Define) -> None:
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx

    def region_with(surface: str) -> Operator:
        return bind(define(rules={surface: OVERRIDES[surface]}))

    def doubled(operator: Operator) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda x: operator(lambda y: y * 2, x)

    x = torch.ones(3)
    assert doubled(region_with("autograd"))(x).equal(x * 2)
    assert torch.vmap(doubled(region_with("transform")))(x).equal(x)
    with FakeTensorMode(), torch.no_grad():
        assert doubled(region_with("fake"))(torch.ones(3)).shape == (7,)
    for surface, make in (("trace", hopyard.make_fx), ("torch-trace", torch_make_fx)):
        graph_module = make(doubled(region_with(surface)))(x)
        assert [node.op for node in graph_module.graph.nodes] == ["placeholder", "output"]
    graph_module = torch_make_fx(torch.func.functionalize(doubled(region_with("functionalize"))))(x)
    assert [node.op for node in graph_module.graph.nodes] == ["placeholder", "output"]
    compiled = torch.compile(doubled(region_with("dynamo")), backend="eager", fullgraph=True)
    assert compiled(x).equal(x)
