"""Modules that each exercise one thing that a capture may get wrong."""

from __future__ import annotations

import collections
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._higher_order_ops import map as torch_map
from torch._higher_order_ops import while_loop
from torch.nn.utils import parametrizations

Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Small:
    """A module and how to call it.

    Attributes:
        about: What it exercises.
        make: Makes the module.
        call: Makes the arguments of one call; numbers drawn within differ from call to call.
    """

    about: str
    make: Callable[[], nn.Module]
    call: Callable[[], Call]


SMALL: dict[str, Small] = {}


def x(*shape: int) -> Tensor:
    return torch.randn(shape or (2, 3))


def args(*makers: Callable[[], Any], **named: Callable[[], Any]) -> Callable[[], Call]:
    return lambda: (
        tuple(make() for make in makers),
        {name: make() for name, make in named.items()},
    )


ONE = args(x)


def module(forward: Callable[..., Any], **attributes: Any) -> nn.Module:
    """Return a module with the given forward; tensors that are no parameters become buffers."""
    made = type("Small", (nn.Module,), {"forward": forward})()
    for name, value in attributes.items():
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            made.register_buffer(name, value)
        else:
            setattr(made, name, value)
    return made


def add(
    name: str, about: str, make: Callable[[], nn.Module], call: Callable[[], Call] = ONE
) -> None:
    SMALL[name] = Small(about, make, call)


def _nested(self: nn.Module, batch: Any, pair: Any) -> Any:
    first, (second, *rest) = pair
    total = batch["a"] + first
    return collections.OrderedDict(sum=total, rest=[second * 2, (rest[0], {"deep": batch["b"][1]})])


add(
    "containers",
    "nested containers in and out",
    lambda: module(_nested),
    args(lambda: {"a": x(), "b": [x(), x()]}, lambda: (x(), [x(), x()])),
)
add(
    "keywords",
    "keyword-only and default arguments",
    lambda: module(lambda self, a, b=2.0, *, scale, shift=3: a * b * scale + shift),
    args(x, scale=x),
)
add(
    "plain-values",
    "`None`, integers, numbers and strings in and out",
    lambda: module(lambda self, a, b, n, s: (a * n if s == "times" else a, None, n + 1, 2.5)),
    args(x, lambda: None, lambda: 3, lambda: "times"),
)
add(
    "text-result",
    "a string and a data type among the results",
    lambda: module(lambda self, a: (a + 1, "text", torch.float32)),
)
add(
    "dtype-input",
    "a data type as an input",
    lambda: module(lambda self, a, dtype: a.to(dtype)),
    args(x, lambda: torch.float64),
)


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens))


add("tied", "one parameter under two names", _Tied, args(lambda: torch.randint(0, 5, (2, 3))))


def _twice() -> nn.Module:
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, nn.ReLU(), layer)


add("used-twice", "a module used twice", _twice)


def _transient() -> nn.Module:
    made = module(lambda self, a: a + self.seen.add_(1))
    made.register_buffer("seen", torch.zeros(3), persistent=False)
    return made


add("transient", "a buffer that `state_dict` leaves out, changed in place", _transient)
add(
    "changed-twice",
    "a buffer changed in place twice and returned",
    lambda: module(lambda self, a: self.total.mul_(2).add_(a), total=torch.ones(2, 3)),
)


def _rebind(self: nn.Module, a: Tensor) -> Any:
    before = self.count
    self.count = self.count + 1
    return a * self.count, before


add(
    "bound-anew",
    "a buffer bound to another tensor",
    lambda: module(_rebind, count=torch.zeros(())),
)


def _through_views(self: nn.Module, a: Tensor) -> Tensor:
    self.table[0].add_(a[0])
    self.table[:, 1] = 7
    return self.table.sum()


add(
    "through-views",
    "a buffer changed through views",
    lambda: module(_through_views, table=torch.zeros(2, 3)),
)
add(
    "batch-norm-training",
    "running statistics that training changes",
    lambda: nn.BatchNorm1d(3).train(),
    args(lambda: x(4, 3)),
)
add(
    "batch-norm-evaluation",
    "running statistics that are only read",
    lambda: nn.BatchNorm1d(3).eval(),
    args(lambda: x(4, 3)),
)
add("dropout", "random numbers", lambda: nn.Dropout(0.5).train(), args(lambda: x(8, 8)))
add("input-changed", "an input changed in place", lambda: module(lambda self, a: a.add_(1).sin()))


def _input_view(self: nn.Module, a: Tensor) -> Any:
    row = a[0]
    row.zero_()
    return a, row, a + 1


add(
    "input-view-changed",
    "an input changed through a view; both are returned",
    lambda: module(_input_view),
)
add(
    "results-alias-inputs",
    "an input and views of it are returned",
    lambda: module(lambda self, a: (a, a.t(), a.view(-1)[1:])),
)
add(
    "parametrized",
    "weights computed by `parametrizations.weight_norm`",
    lambda: parametrizations.weight_norm(nn.Linear(3, 3)),
)
add(
    "weight-norm",
    "weights computed by the hook of `utils.weight_norm`",
    lambda: nn.utils.weight_norm(nn.Linear(3, 3)),
)
add(
    "spectral-norm",
    "a power iteration that training changes",
    lambda: nn.utils.spectral_norm(nn.Linear(3, 3)).train(),
)
add(
    "hooks",
    "hooks before and after a module",
    lambda: _hooked(),
)


def _hooked() -> nn.Module:
    layer = nn.Linear(3, 3)
    layer.register_forward_pre_hook(lambda _, given: (given[0] * 2,))
    layer.register_forward_hook(lambda _, given, result: result + given[0])
    return nn.Sequential(layer)


add("gru", "a recurrent network in training", lambda: nn.GRU(3, 4, 2, dropout=0.1), ONE)
add(
    "attention",
    "a transformer layer in evaluation",
    lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(),
    args(lambda: x(2, 4, 8)),
)


def _autocast(self: nn.Module, a: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return self.layer(a).float() + a


add("autocast", "a region in lower precision", lambda: module(_autocast, layer=nn.Linear(3, 3)))


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        return a * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 3


add(
    "custom-function",
    "a custom autograd function",
    lambda: module(lambda self, a: _Doubled.apply(a)),
)
add(
    "list-of-parameters",
    "parameters in a plain list",
    lambda: module(lambda self, a: a + self.held[0], held=[nn.Parameter(torch.ones(3))]),
)


def _data(self: nn.Module, a: Tensor) -> Tensor:
    self.weight.data.add_(1)
    return a + self.weight


add(
    "data-changed",
    "a parameter changed through `.data`",
    lambda: module(_data, weight=nn.Parameter(torch.ones(3))),
)
add("spectrum", "complex numbers", lambda: module(lambda self, a: torch.fft.rfft(a).abs()))
add(
    "vmap",
    "a function mapped over a dimension",
    lambda: module(lambda self, a: torch.vmap(lambda row: row.sin().sum())(a)),
)
add(
    "jacobian",
    "derivatives taken within",
    lambda: module(lambda self, a: torch.func.jacrev(torch.sin)(a)),
)


def _cond(self: nn.Module, a: Tensor) -> Tensor:
    return torch.cond(a.sum() > 0, lambda b: self.layer(b), lambda b: b * 2, (a,))


add(
    "cond",
    "`torch.cond` whose branch uses a parameter",
    lambda: module(_cond, layer=nn.Linear(3, 3)),
)
add(
    "map",
    "torch's `map` over rows",
    lambda: module(lambda self, a: torch_map(lambda row: row * 2, a)),
)


def _while(self: nn.Module, a: Tensor) -> Any:
    start = torch.zeros((), dtype=torch.int64)
    return while_loop(lambda i, _: i < 3, lambda i, b: (i + 1, b * 2), (start, a))


add("while-loop", "torch's `while_loop`", lambda: module(_while))
add("number", "a number read from data", lambda: module(lambda self, a: a * a.sum().item()))
add(
    "mask",
    "a size that depends on data",
    lambda: module(lambda self, a: (a[a > 0], a.nonzero())),
)
add(
    "branch",
    "a Python branch that depends on data",
    lambda: module(lambda self, a: a + 1 if a.sum() > 0 else a - 1),
)


def _remember(self: nn.Module, a: Tensor) -> Tensor:
    self.seen.append(a * 2)
    return a + 1


add("remembering", "a tensor put into a list of the module", lambda: module(_remember, seen=[]))


def _assign(self: nn.Module, a: Tensor) -> Tensor:
    self.last = a * 2
    return a + 1


add("assigning", "a tensor bound to a plain attribute", lambda: module(_assign))
add(
    "container-changed",
    "a dictionary among the inputs changed",
    lambda: module(lambda self, batch: batch.pop("a") + 1),
    args(lambda: {"a": x()}),
)


def _transpose(self: nn.Module, a: Tensor) -> Tensor:
    a.t_()
    return a.sum(0)


add("transposed-in-place", "the shape of an input changed in place", lambda: module(_transpose))


def _shared() -> Call:
    whole = x(4, 3)
    return (whole[:3], whole[1:]), {}


add(
    "overlapping-changed",
    "one of two inputs that overlap changed in place",
    lambda: module(lambda self, a, b: (a.add_(1), b * 2)),
    _shared,
)
add(
    "scripted",
    "a module compiled by TorchScript",
    lambda: torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.ReLU())),
)
