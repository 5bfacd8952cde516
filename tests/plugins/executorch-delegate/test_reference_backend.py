"""The reference backend: what it takes, and bytes that mean the partition."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.testing import assert_close

import hopyard
from hopyard.errors import ArtifactError
from hopyard_executorch_delegate import ReferenceBackend, call_delegate
from hopyard_hookspecs import Lowered, Support

aten = torch.ops.aten
X = torch.linspace(-1, 1, 6).reshape(2, 3)


def partition(function: Callable[..., Any], *inputs: Tensor) -> GraphModule:
    with torch.no_grad():
        return hopyard.make_fx(function, tracing_mode="fake")(*inputs)


def lowered(function: Callable[..., Any], *inputs: Tensor) -> Lowered:
    return ReferenceBackend().lower(partition(function, *inputs), {})


def content(function: Callable[..., Any] = lambda x: (x.sin() * 2,)) -> dict[str, Any]:
    return json.loads(lowered(function, X).processed_bytes)


def run(processed_bytes: bytes, *operands: Tensor) -> tuple[Any, ...]:
    return ReferenceBackend().run(
        Lowered(GraphModule({}, Graph()), "reference", processed_bytes), *operands
    )


def node(target: Any, *args: Any, value: Any = X, **kwargs: Any) -> Node:
    graph = Graph()
    x = graph.placeholder("x")
    made = graph.call_function(target, (x, *args), kwargs)
    made.meta["val"] = value
    return made


class TestSupports:
    @pytest.mark.parametrize(
        "taken",
        [
            node(aten.sin.default),
            node(aten.topk.default, 2, value=(X, X.long())),
            node(aten.native_layer_norm_backward.default, value=(X, None, None)),
            node(aten.argmax.default, value=X.long()),
            node(aten._to_copy.default, dtype=torch.float16, device=torch.device("cpu")),
            node(aten.scaled_dot_product_attention.default, None, None, dropout_p=0.0),
            node(aten._scaled_dot_product_flash_attention_for_cpu.default, None, None, value=[X]),
        ],
        ids=lambda each: str(each.target),
    )
    def test_it_takes_functions_of_tensors(self, taken: Node) -> None:
        assert ReferenceBackend().supports(taken) == Support(True)

    @pytest.mark.parametrize(
        ("left", "reason"),
        [
            (node(aten.add_.Tensor, 1), "writes to its operands"),
            (node(aten.bernoulli.p, 0.5), "draws random numbers"),
            (node(aten.native_dropout.default, 0.5, True, value=(X, X)), "draws random numbers"),
            (
                node(aten._scaled_dot_product_flash_attention_for_cpu.default, None, None, 0.5),
                "draws random numbers",
            ),
            (node(call_delegate), "is no operator of aten"),
            (node(torch.sin), "is no operator of aten"),
            (node(torch.ops.prims.sin.default), "is an operator of prims, not of aten"),
            (
                node(aten._local_scalar_dense.default, value=1.0),
                "returns something else than tensors",
            ),
            (node(aten.sin.default, torch.Generator()), "an argument is a Generator"),
            (node(aten.sin.default, [[slice(1)]]), "an argument is a slice"),
        ],
        ids=lambda each: getattr(getattr(each, "target", ""), "__name__", ""),
    )
    def test_it_says_why_it_leaves_others(self, left: Node, reason: str) -> None:
        assert ReferenceBackend().supports(left) == Support(False, reason)

    def test_it_leaves_what_is_not_described(self) -> None:
        bare = node(aten.sin.default)
        del bare.meta["val"]
        assert not ReferenceBackend().supports(bare).supported


class TestBytes:
    def test_they_are_json_that_says_its_types(self) -> None:
        assert content(lambda x: (x.sum(-1, dtype=torch.float64) * 0.1,)) == {
            "format": "hopyard-reference",
            "version": 1,
            "inputs": ["float32[2, 3] on cpu"],
            "instructions": [
                {
                    "operator": "aten.sum.dim_IntList",
                    "args": [{"value": 0}, {"list": [{"int": -1}]}],
                    "kwargs": {"dtype": {"dtype": "float64"}},
                },
                {
                    "operator": "aten.mul.Tensor",
                    "args": [{"value": 1}, {"float": "0.1"}],
                    "kwargs": {},
                },
            ],
            "outputs": [{"value": 2}],
        }

    def test_equal_partitions_have_equal_bytes(self) -> None:
        one = lowered(lambda x: (x.sin().cos(),), X).processed_bytes
        assert lowered(lambda another: (another.sin().cos(),), X).processed_bytes == one
        assert lowered(lambda x: (x.cos().sin(),), X).processed_bytes != one

    @pytest.mark.parametrize(
        "value",
        [
            None,
            True,
            2**70,
            "none",
            0.1,
            float("inf"),
            float("-inf"),
            1e-300,
            complex(1, float("inf")),
            torch.int8,
            torch.device("cuda:1"),
            torch.strided,
            torch.channels_last,
            [1, [None, True], (2.0,)],
            (),
        ],
        ids=repr,
    )
    def test_every_argument_comes_back_as_it_was(self, value: Any) -> None:
        from hopyard_executorch_delegate._format import decode, encode

        graph = Graph()
        x = graph.placeholder("x")
        graph.output((graph.call_function(aten.sin.default, (x, value), {"key": value}),))
        (instruction,) = decode(encode(GraphModule({}, graph))).instructions
        assert instruction.args[1] == value
        assert type(instruction.args[1]) is type(value)
        assert instruction.kwargs == {"key": value}

    def test_what_runs_is_in_the_bytes(self) -> None:
        data = content()
        data["instructions"][0]["operator"] = "aten.cos.default"
        data["instructions"][1]["args"][1] = {"int": 3}
        assert_close(run(json.dumps(data).encode(), X), (X.cos() * 3,))

    def test_several_outputs_and_unused_ones(self) -> None:
        def several(x: Tensor) -> tuple[Any, ...]:
            values, indices = x.topk(2)
            x.exp()
            return indices, x, values + 1

        assert_close(run(lowered(several, X).processed_bytes, X), several(X))

    def test_the_operands_are_left_to_the_caller(self) -> None:
        operands = (X.clone(),)
        run(lowered(lambda x: (x.sin(),), X).processed_bytes, *operands)
        assert_close(operands[0], X)


def damaged(change: Callable[[dict[str, Any]], Any]) -> bytes:
    data = content()
    change(data)
    return json.dumps(data).encode()


DAMAGED = {
    "empty": b"",
    "not text": b"\xff\x00",
    "truncated": json.dumps(content()).encode()[:-20],
    "another format": b'{"format": "other", "version": 1}',
    "a list": b"[]",
    "no version": damaged(lambda data: data.pop("version")),
    "no instructions": damaged(lambda data: data.pop("instructions")),
    "instructions are text": damaged(lambda data: data.update(instructions="aten")),
    "a later value": damaged(lambda data: data.update(outputs=[{"value": 9}])),
    "a negative value": damaged(lambda data: data.update(outputs=[{"value": -1}])),
    "no operator": damaged(lambda data: data["instructions"][0].update(operator="aten.no.default")),
    "no overload": damaged(lambda data: data["instructions"][0].update(operator="aten.sin.no")),
    "no aten": damaged(lambda data: data["instructions"][0].update(operator="os.system.default")),
    "python": damaged(lambda data: data["instructions"][0].update(operator="aten.__class__.mro")),
    "an unknown type": damaged(lambda data: data["instructions"][0].update(args=[{"set": []}])),
    "two types": damaged(lambda data: data["instructions"][0].update(args=[{"int": 1, "str": ""}])),
    "a false type": damaged(lambda data: data["instructions"][0].update(args=[{"int": True}])),
    "no dtype": damaged(lambda data: data["instructions"][0].update(args=[{"dtype": "nn"}])),
    "no device": damaged(lambda data: data["instructions"][0].update(args=[{"device": "toaster"}])),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_bytes_are_refused_in_the_name_of_the_backend(name: str) -> None:
    with pytest.raises(ArtifactError, match="cannot run the bytes") as caught:
        run(DAMAGED[name], X)
    assert caught.value.stage == "backend 'reference'"


def test_bytes_of_a_later_version_are_refused() -> None:
    with pytest.raises(ArtifactError, match=r"version 2 .* up to 1") as caught:
        run(damaged(lambda data: data.update(version=2)), X)
    assert caught.value.hint == "update hopyard-executorch-delegate"


def test_another_number_of_operands_is_refused() -> None:
    with pytest.raises(ArtifactError, match="take 1 operands, but 2 were given"):
        run(lowered(lambda x: (x.sin(),), X).processed_bytes, X, X)
