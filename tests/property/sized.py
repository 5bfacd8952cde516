"""Random programs about sizes: their inputs' sizes and numbers are named `a`, `b` and `c`.

A program reads sizes and values, computes with them, makes and views tensors by them, decides by
them and promises something of them. A value that it reads is small, and it says so, as programs
that are captured must.
"""

from __future__ import annotations

import math

import torch
from templates import Vocabulary
from torch import Tensor
from torch.fx.experimental import symbolic_shapes


class Elsewhere(Exception):
    """Another way is taken than for the example."""


def read(tensor: Tensor) -> int:
    """Return a number from 2 to 6 that only the values tell."""
    number = int(tensor.abs().sum().nan_to_num().clamp(2, 6).long().item())
    torch._check(number >= 2)
    torch._check(number <= 6)
    return number


def up_to(tensor: Tensor, length: int) -> int:
    """Return a number up to a size that only the values tell."""
    number = tensor.abs().sum().nan_to_num().clamp(0, 100).long().remainder(length + 1).item()
    torch._check_is_size(number)
    torch._check(number <= length)
    return number


def listed(tensor: Tensor) -> list[int]:
    """Return two numbers from 1 to 4 that only the values tell."""
    total = tensor.abs().sum().nan_to_num().clamp(1, 4).long()
    first, second = torch.stack((total, 5 - total)).tolist()
    for number in (first, second):
        torch._check(number >= 1)
        torch._check(number <= 4)
    return [first, second]


_INPUTS = (
    "torch.randn(a, b)",
    "torch.randn(a, b)",
    "torch.randn(a)",
    "torch.randn(b, c)",
    "torch.randn(a, b, c)",
    "torch.randn(b, a).t()",
    "torch.randn(a, b, requires_grad=True)",
    "torch.randint(0, 4, (a,))",
    "torch.randint(0, 2, (a, b)) > 0",
    "torch.randn(a, 1)",
    "torch.randn(1, a, b, c)",
    "torch.randn(2 * a, b)",
    "torch.randn(a + 1)",
    "torch.randn(3)",
    "torch.randn(())",
    "torch.randn(a, 2 * b)[:, ::2]",
    "torch.randn(a, b, dtype=torch.float64)",
    "torch.randn(b).expand(a, b)",
    "latest.reshape(-1)",
    "a",
    "b",
    "c + 1",
    "7",
)

_NUMBERS = (
    "{x}.shape[{dim}]",
    "{x}.size({dim})",
    "{x}.numel()",
    "{x}.stride({dim})",
    "{x}.storage_offset()",
    "{x}.untyped_storage().nbytes()",
    "{x}.nbytes",
    "len({shaped})",
    "{x}.dim() + {length}",
    "sum({x}.shape)",
    "math.prod({x}.shape)",
    "{x}.shape.numel()",
    "{length} + {length}",
    "{length} * {length}",
    "{length} - {length}",
    "{length} + {integer}",
    "{length} * {integer}",
    "{integer} - {length}",
    "{length} // 2",
    "{length} // {length}",
    "{length} % 3",
    "{length} % {length}",
    "{length} / {length}",
    "{length} / 2",
    "-{length}",
    "abs({length} - {length})",
    "{length} ** 2",
    "{length} << 1",
    "{length} >> 1",
    "{length} * 1",
    "1 * {length}",
    "({length} + {length}) // 2 * 2",
    "max({length}, {length})",
    "min({length}, {integer})",
    "torch.sym_max({length}, {length})",
    "torch.sym_max({length}, {integer})",
    "torch.sym_min({length}, {length})",
    "torch.sym_max(torch.sym_min({length}, {length}), {length})",
    "torch.sym_sum([{length}, {length}, {length}])",
    "torch.sym_sum([{length}, {integer}])",
    "torch.sym_ite({length} > {integer}, {length}, {length})",
    "torch.sym_not({length} == {length})",
    "torch.sym_float({length})",
    "torch.sym_int({length} / 2)",
    "torch._sym_sqrt({length})",
    "float({length})",
    "int({length} * 1.5)",
    "int({length})",
    "round({length} / 2)",
    "math.floor({length} / 2)",
    "math.ceil({length} / 2)",
    "math.trunc({length} / 2)",
    "bool({length})",
    "{length} > {length}",
    "{length} == {length}",
    "({length} > 2) & ({length} < 9)",
    "({length} == 2) | ({length} > {length})",
)
_FACTORIES = (
    "torch.zeros({length}, {length})",
    "torch.ones({length})",
    "torch.arange({length})",
    "torch.arange({length}, {length} + 5)",
    "torch.arange(0, {length}, 2)",
    "torch.full(({length},), {length})",
    "torch.full((2,), {length} / 2)",
    "torch.zeros({x}.shape)",
    "torch.zeros({length} * 2, {length} + 1)",
    "torch.eye({length})",
    "torch.linspace(0, 1, {length})",
    "torch.rand({length}, {length})",
    "torch.randint(0, {length} + 1, (3,))",
    "torch.tensor({length})",
    "torch.tensor([{length}, 2])",
    "torch.scalar_tensor({length})",
    "torch.ones_like({x}) * {length}",
    "{x}.new_zeros({length}, 2)",
    "{x}.new_full(({length},), 2)",
    "torch.empty_strided(({length}, 2), (2, 1)).zero_()",
    "torch.tril_indices({length}, {length})",
)
_VIEWS = (
    "{x}.view(-1)",
    "{x}.reshape(-1)",
    "{x}.flatten()",
    "{x}.reshape({x}.numel())",
    "{x}.view({x}.shape)",
    "{x}.view(1, *{x}.shape)",
    "{shaped}.reshape({shaped}.shape[0], -1)",
    "{matrix}.view({matrix}.shape[0] * {matrix}.shape[1])",
    "{matrix}.reshape({matrix}.shape[1], {matrix}.shape[0])",
    "{matrix}.reshape(-1, {length})",
    "{x}.reshape({length}, {length})",
    "{x}.expand({length}, *{x}.shape)",
    "{x}.repeat(2, *[1] * {x}.dim())",
    "{x}.unsqueeze({dim})",
    "{x}.squeeze()",
    "{x}.squeeze({dim})",
    "{x}.transpose({dim}, {dim})",
    "{x}.permute({order})",
    "{x}.unflatten(0, (-1, 1))",
    "{shaped}.unfold({dim}, 2, 1)",
    "{matrix}.as_strided({matrix}.shape, ({matrix}.shape[1], 1))",
    "{x}.as_strided(({length}, 1), (1, 1))",
    "{shaped}[:{length}]",
    "{shaped}[{length}:]",
    "{shaped}[-{length}:]",
    "{shaped}[{integer}]",
    "{x}[..., :{length}]",
    "{x}[..., 0]",
    "{shaped}[1:-1]",
    "{shaped}[::2]",
    "{shaped}.narrow({dim}, 0, {length})",
    "{shaped}.select({dim}, 0)",
    "{shaped}.diagonal()",
    "torch.broadcast_to({x}, ({length}, *{x}.shape))",
    "{x}.view_as({same})",
    "{x}.detach()",
    "{x}.contiguous()",
    "{x}.clone()",
)
_PIECES = (
    "torch.split({shaped}, {length})",
    "torch.split({shaped}, [1, {shaped}.shape[0] - 1])",
    "torch.split({shaped}, 2, {dim})",
    "torch.chunk({shaped}, 2)",
    "torch.unbind({shaped})",
    "torch.cat([{shaped}, {shaped}], {dim})",
    "torch.cat([{shaped}, {same}, {shaped}])",
    "torch.stack([{x}, {same}])",
    "torch.roll({shaped}, {length}, 0)",
    "functional.pad({shaped}, (0, {length}))",
    "functional.pad({shaped}, (1, 1), value={integer})",
    "torch.repeat_interleave({shaped}, 2, {dim})",
)
_COMPUTATIONS = (
    "{x} + {other}",
    "{x} * {other}",
    "{x} * {length}",
    "{x} / {length}",
    "{x} + {length} / 2",
    "{length} - {x}",
    "torch.add({x}, {other}, alpha={length})",
    "{x}.sum({dim})",
    "{x}.sum() / {x}.numel()",
    "{floating}.mean({dim})",
    "{x}.cumsum({dim})",
    "{x}.sin()",
    "{x}.clamp(max={length})",
    "torch.where({x} > 0, {x}, {length})",
    "functional.softmax({floating}, {dim})",
    "functional.layer_norm({floating}, {floating}.shape[-1:])",
    "functional.linear({matrix}, {same})",
    "functional.gelu({floating})",
    "{matrix} @ {factor}",
    "{matrix} @ {matrix}.t()",
    "torch.outer({x}.flatten(), {x}.flatten())",
    "torch.einsum('ij,kj->ik', {matrix}, {same})",
    "{shaped}.index_select(0, torch.arange({length}))",
    "{shaped}[torch.arange({shaped}.shape[0])]",
    "{shaped}.gather({dim}, torch.zeros_like({shaped}, dtype=torch.int64))",
    "{real}.amax({dim})",
    "torch.sort({real}, {dim})",
    "{x}.to({dtype})",
)
_IN_PLACE = (
    "{x}.add_({length})",
    "{x}.mul_({into})",
    "{x}.fill_({length})",
    "{shaped}[:{length}].zero_()",
    "{shaped}[0].add_({length})",
    "{x}.unsqueeze_({dim})",
    "{x}.t_()",
    "{x}.squeeze_()",
    "{x}.view(-1).add_({length})",
    "torch.mul({x}, {length}, out=torch.empty(0))",
    "torch.sin({floating}, out={same})",
)
_READINGS = (
    "read({x})",
    "read({x})",
    "up_to({x}, {length})",
    "listed({x})",
    "{one}.item()",
    "{one}.tolist()",
    "{x}.nonzero()",
    "{x}.nonzero().shape[0]",
    "torch.argwhere({x})",
    "{x}[{x} > 0]",
    "{x}.masked_select({x} > 0)",
    "torch.unique({x})",
    "torch.repeat_interleave(torch.arange(3) + read({x}))",
    "torch.repeat_interleave({shaped}, torch.ones({shaped}.shape[0], dtype=torch.int64), 0)",
    "torch.arange(read({x}))",
    "torch.zeros(read({x}), {length})",
    "torch.ones(read({x})) + torch.ones(read({x})).sum()",
    "{shaped}.narrow(0, 0, up_to({x}, {shaped}.shape[0]))",
    "{shaped}[:up_to({x}, {shaped}.shape[0])]",
    "{shaped}[up_to({x}, {shaped}.shape[0] - 1)]",
    "torch.zeros(sum(listed({x})), 2)",
    "torch.cat([{column}, {column}.new_zeros(read({x}))])",
    "torch.split(torch.arange(5), listed({x}))",
    "{x} * read({x})",
    "{x}.sum().item() * 2",
)
_GRADIENTS = (
    "torch.autograd.grad(({trained} * {length}).sum(), {trained})",
    "torch.autograd.grad({trained}.view(-1).sin().sum() * {trained}.shape[0], {trained})",
    "torch.autograd.grad(({trained}[:{length}] * 2).sum(), {trained})",
    "torch.autograd.grad({trained}.reshape(-1, {length}).exp().mean(), {trained})",
    "torch.vmap(lambda t: t * {length})({shaped})",
    "torch.func.grad(lambda t: (t * t).sum() / t.numel())({floating})",
)

_STATEMENTS = (
    "torch._check({length} >= {integer})",
    "torch._check({length} <= {length})",
    "torch._check({length} == {length})",
    "torch._check({length} != {integer})",
    "torch._check({length} % 2 == 0)",
    "torch._check({x}.numel() > 0)",
    "torch._check_is_size({length})",
    "torch._check({length} + {length} > {integer})",
    "assert {length} > 1",
    "assert {x}.shape == {same}.shape",
    "{shaped}[{integer}] = {length}",
    "{shaped}[:{length}] = 0",
    "{x}[...] = {into}",
    "{x}[{x} > 0] = {length}",
    "range({length})",
)

_BLOCKS = (
    "if {length} > {length}",
    "if {length} == {length}",
    "if {length} >= {integer}",
    "if {length} % 2 == 0",
    "if {length} * {length} < {length} + 9",
    "if {x}.numel() % 2 == 0",
    "if {x}.is_contiguous()",
    "if {x}.shape == {other}.shape",
    "if {x}.shape[-1] in (2, 3)",
    "if {length}",
    "if symbolic_shapes.statically_known_true({length} > 0)",
    "if symbolic_shapes.guard_or_false({length} == {integer})",
    "if symbolic_shapes.guard_or_true({length} > {length})",
    "if symbolic_shapes.guard_size_oblivious({length} == 1)",
    "for _ in range(2)",
    "torch.no_grad()",
    "torch.autocast('cpu', dtype=torch.bfloat16)",
)

SIZED = Vocabulary(
    _INPUTS,
    (
        *_NUMBERS,
        *_FACTORIES,
        *_VIEWS,
        *_PIECES,
        *_COMPUTATIONS,
        *_IN_PLACE,
        *_READINGS,
        *_GRADIENTS,
    ),
    _STATEMENTS,
    _BLOCKS,
    {
        "Elsewhere": Elsewhere,
        "listed": listed,
        "math": math,
        "read": read,
        "symbolic_shapes": symbolic_shapes,
        "up_to": up_to,
    },
)
"""Programs about sizes."""
