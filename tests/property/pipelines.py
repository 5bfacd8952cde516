"""Programs of many kinds, and random pipelines of standard passes to run on them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from hopyard import Pipeline, Program, Session
from hopyard.hops import bind
from hopyard.pipeline import Item, Regions, Repeat, Step
from hopyard.verify import verify
from hopyard_hookspecs import Hop

SEED = 20
_region = bind(Hop("pipelines_tests__region"))
_scaled = bind(Hop("pipelines_tests__scaled", lambda body, *xs, factor: factor * body(*xs)))

PROGRAM_PASSES = (
    Step("functionalize"),
    Step("fold-conv-bn"),
    Step("fold-constants"),
    Step("fold-constants", {"freeze": True}),
)
GRAPH_PASSES = (
    Step("cse"),
    Step("dce"),
    Step("decompose"),
    Step("fuse-linear-activation"),
    Step("remove-no-ops"),
)


@dataclass(frozen=True)
class Kind:
    """A program to capture.

    Attributes:
        make: Returns the module or function.
        inputs: Returns its inputs; the same each time.
        capture: Options of the capture.
        random: Whether it draws random numbers, which decomposed operators draw otherwise.
    """

    make: Callable[[], Callable[..., Any]]
    inputs: Callable[[], tuple[Any, ...]]
    capture: Mapping[str, Any] = field(default_factory=dict)
    random: bool = False

    def made(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Return the function and inputs, always of the same numbers."""
        torch.manual_seed(SEED)
        return self.make(), self.inputs()


class Convolutions(nn.Module):
    """Convolutions with normalizations after them, one of which is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4))
        self.head = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        for norm in (self.first[1], self.second[1]):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        z = self.second(y) + self.second(y) * 1
        result: Tensor = self.head(torch.relu(z).mean((2, 3)))
        return result


class Tied(nn.Module):
    """Layers that share a weight, and constants."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        table = torch.tensor([1.0, 2.0, 3.0, 4.0]).sin()
        hidden = self.second(self.first(x).relu()).relu() * table
        return hidden, self.first(x).relu() + table.cos() + self.first.weight.softmax(0).sum()


class Counting(nn.Module):
    """Writes buffers and an input, and reads them before and after."""

    calls: Tensor
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        before = self.mean.exp()
        self.calls += 1
        self.mean.mul_(0.5).add_(x.mean(0))
        x.add_(1.0)
        return before + self.mean.exp() + x.clone() * self.calls


class Branching(nn.Module):
    """Regions of several operators, one in another, which share what they compute."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        def inner(y: Tensor) -> Tensor:
            chosen: Tensor = torch.cond(
                y.sum() > 1, lambda z: z.sin() * 1 + z.sin(), lambda z: z.clone().cos(), (y,)
            )
            return chosen

        outer: Tensor = torch.cond(
            x.sum() > 0, inner, lambda y: self.layer(y).relu() + y * torch.ones(4).exp(), (x,)
        )
        kept = _region(lambda y: self.layer(y).relu() + y.sin() + y.sin(), outer)
        scaled: Tensor = _scaled(lambda y: torch.addcmul(y, y, y) * 1, kept, factor=2.0)
        return scaled + outer.sin() + outer.sin()


def loops(x: Tensor) -> tuple[Tensor, Tensor]:
    """A loop and a mapped body."""
    from torch._higher_order_ops import map as mapped
    from torch._higher_order_ops import while_loop

    count, value = while_loop(
        lambda i, y: i < 3,
        lambda i, y: (i + 1, y.sin() + y.sin() * 1),
        (torch.tensor(0), x),
    )
    return mapped(lambda row: row.exp() + row.exp().clone(), value), count


def random_draws(x: Tensor) -> Tensor:
    dropped = nn.functional.dropout(x.sin() * 1, 0.5)
    return dropped + torch.rand_like(x) + torch.rand_like(x) + x.sin()


def reads(x: Tensor) -> tuple[Tensor, ...]:
    first, second = x.sum().item(), x.sum().item()
    return x * first + second, x.clone().view(-1), x.sin(), x.sin(), x.topk(2).values


def attention(q: Tensor, k: Tensor) -> Tensor:
    out = nn.functional.scaled_dot_product_attention(q, k, k)
    mask = torch.arange(4).neg().exp()
    return (out * mask).transpose(1, 2).reshape(q.shape[0], q.shape[2], -1).contiguous()


def _rows() -> tuple[Tensor, ...]:
    return (torch.linspace(-1, 1.5, 12).reshape(3, 4),)


def _image() -> tuple[Tensor, ...]:
    return (torch.linspace(-1, 1, 2 * 3 * 36).reshape(2, 3, 6, 6),)


def _heads() -> tuple[Tensor, ...]:
    return torch.randn(2, 2, 5, 4), torch.randn(2, 2, 5, 4)


_BATCH = ({0: torch.export.Dim("batch", min=2, max=64)},)

_DYNAMIC = {"dynamic_shapes": _BATCH}
_ABOVE_AUTOGRAD = {"pre_dispatch": True}

KINDS: dict[str, Kind] = {
    "convolutions": Kind(lambda: Convolutions().eval(), _image),
    "convolutions-training": Kind(Convolutions, _image),
    "convolutions-dynamic": Kind(lambda: Convolutions().eval(), _image, _DYNAMIC),
    "convolutions-pre-dispatch": Kind(
        lambda: Convolutions().eval(), _image, {"pre_dispatch": True}
    ),
    "tied": Kind(Tied, _rows),
    "tied-pre-dispatch": Kind(Tied, _rows, _ABOVE_AUTOGRAD),
    "tied-dynamic": Kind(Tied, _rows, _DYNAMIC),
    "counting": Kind(Counting, _rows),
    "branching": Kind(Branching, _rows),
    "loops": Kind(lambda: loops, _rows),
    "random": Kind(lambda: random_draws, _rows, random=True),
    "reads": Kind(lambda: reads, _rows),
    "attention": Kind(lambda: attention, _heads),
}


class Logits(nn.Module):
    """A language model of the transformers library, from a tiny configuration."""

    def __init__(self, name: str, **sizes: Any) -> None:
        super().__init__()
        import transformers

        config = getattr(transformers, f"{name}Config")(vocab_size=50, use_cache=False, **sizes)
        kind = f"{name}LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM"
        self.model = getattr(transformers, kind)(config).eval()

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=tokens).logits
        return logits


def _tokens() -> tuple[Tensor, ...]:
    return (torch.randint(0, 50, (2, 6)),)


_GPT2 = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 16}
_LLAMA = {
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 16,
}

MODELS: dict[str, Kind] = {
    "gpt2": Kind(lambda: Logits("GPT2", **_GPT2), _tokens),
    "gpt2-pre-dispatch": Kind(lambda: Logits("GPT2", **_GPT2), _tokens, _ABOVE_AUTOGRAD),
    "llama": Kind(lambda: Logits("Llama", **_LLAMA), _tokens),
}
"""Larger ones, which only the long run takes."""


def pipelines(*, decompose: bool, most: int) -> st.SearchStrategy[Pipeline]:
    """Return a strategy for pipelines of standard passes, in groups and switched off as well.

    Args:
        decompose: Whether operators may be decomposed.
        most: The greatest number of items.
    """
    graph_passes = [step for step in GRAPH_PASSES if decompose or step.name != "decompose"]
    in_regions: st.SearchStrategy[Item] = st.sampled_from(graph_passes)
    anywhere: st.SearchStrategy[Item] = st.sampled_from([*graph_passes, *PROGRAM_PASSES])

    def tuples(items: st.SearchStrategy[Item]) -> st.SearchStrategy[tuple[Item, ...]]:
        return st.lists(items, min_size=1, max_size=3).map(tuple)

    regions = st.builds(Regions, tuples(in_regions), st.sampled_from([(), ("cond",)]))
    repeated = st.builds(Repeat, tuples(anywhere | regions), st.integers(2, 4), st.just(False))
    disabled = st.builds(Step, st.just("dce"), st.just({}), st.just(False))
    items = st.one_of(anywhere, anywhere, anywhere, regions, repeated, disabled)
    return st.lists(items, min_size=1, max_size=most).map(lambda each: Pipeline(tuple(each)))


def check(session: Session, kind: Kind, pipeline: Pipeline) -> None:
    """Run a pipeline on a program and compare what the program does with eager, twice.

    Raises:
        AssertionError: It does something else, or another run makes another graph.
    """
    target, inputs = kind.made()
    again = copy.deepcopy(target)
    with torch.no_grad():
        program = session.capture(target, inputs, **kind.capture)
        before = program.print_readable()
        result = session.run(pipeline, program).program
        assert program.print_readable() == before
        assert session.run(pipeline, program).program == result or _has_new_constants(result)
        verify(result.graph_module, propagate=True)
        for _ in range(2):
            ours, theirs = copy.deepcopy(inputs), copy.deepcopy(inputs)
            torch.manual_seed(SEED)
            expected = again(*theirs)
            torch.manual_seed(SEED)
            found = result(*ours)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(ours, theirs)
        if isinstance(target, nn.Module) and isinstance(again, nn.Module):
            state, expected_state = dict(target.named_buffers()), dict(again.named_buffers())
            torch.testing.assert_close(state, expected_state, rtol=1e-4, atol=1e-5)


def _has_new_constants(program: Program) -> bool:
    """Say whether programs differ since constants were computed for each of them."""
    return any(name.startswith("folded_") for name in program.constants)
