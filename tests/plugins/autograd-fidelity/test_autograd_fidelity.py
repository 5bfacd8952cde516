"""Hooks, custom backwards and detachments that a graph would lose are found where they occur."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import hopyard
import hopyard_autograd_fidelity._plugin as plugin
from hopyard.errors import SafeguardError, UnsupportedError
from hopyard.testing import (
    SafeguardContract,
    SafeguardExample,
    observed_effects,
    plugin_session,
    same_effects,
)
from hopyard_hookspecs import Policy

X = torch.linspace(0.5, 2.0, 4).requires_grad_()


class Reversed(torch.autograd.Function):
    """The identity with a reversed gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


class Silent(Reversed):
    """The same by a forward that calls no function."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x


class Signed(torch.autograd.Function):
    """A straight-through estimator, in the style with a context apart."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.sign(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def reversed_gradient(x: Tensor) -> Tensor:
    y = x * 2
    return Reversed.apply(y)  # HY113


def straight_through(x: Tensor) -> Tensor:
    return Signed.apply(x) * x  # HY113


def twice_at_two_lines(x: Tensor) -> Tensor:
    y = Reversed.apply(x)  # HY113
    return Signed.apply(y) * x  # HY113


def one_inside_the_other(x: Tensor) -> Tensor:
    class Outer(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return Reversed.apply(x) * 2

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * 5

    return Outer.apply(x)  # HY113


def of_what_has_no_gradient(x: Tensor) -> Tensor:
    return Reversed.apply(torch.ones(4)) * x


def differentiated_inside(x: Tensor) -> Tensor:
    y = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(Reversed.apply(y * y).sum(), y)
    return gradient * x


def checkpointed(x: Tensor) -> Tensor:
    return torch.utils.checkpoint.checkpoint(torch.sin, x, use_reentrant=False) * x


def with_hook(x: Tensor) -> Tensor:
    y = x * 2
    y.register_hook(lambda gradient: gradient * 10)  # HY111
    return y * x


def with_hook_on_an_input(x: Tensor) -> Tensor:
    x.register_hook(lambda gradient: gradient * 10)  # HY111
    return x * 3


def with_hook_removed(x: Tensor) -> Tensor:
    y = x * 2
    handle = y.register_hook(lambda gradient: gradient * 10)
    handle.remove()
    return y * x


def with_hook_on_the_unused(x: Tensor) -> Tensor:
    y = x * 2
    y.register_hook(lambda gradient: gradient * 10)
    return x * 3


def with_hook_used_inside(x: Tensor) -> Tensor:
    y = x.detach().requires_grad_()
    z = y * y
    z.register_hook(lambda gradient: gradient * 10)
    (gradient,) = torch.autograd.grad(z.sum(), y)
    return gradient * x


def retaining(x: Tensor) -> tuple[Tensor, Tensor]:
    y = x * 2
    y.retain_grad()  # HY112
    return y * x, y


def retaining_inside(x: Tensor) -> Tensor:
    y = x * 2
    y.retain_grad()
    return y * x


def detaching(x: Tensor) -> Tensor:
    y = x * 2
    y.detach_()  # HY114
    return y * x


def detached(x: Tensor) -> Tensor:
    return (x * 2).detach() * x


def detaching_the_unused(x: Tensor) -> Tensor:
    y = x * 2
    z = y + x
    y.detach_()
    return z


def detaching_a_constant(x: Tensor) -> Tensor:
    return torch.ones(4).detach_() * x


def freezing(x: Tensor) -> Tensor:
    y = x.detach().requires_grad_()
    z = y * x
    y.requires_grad_(False)
    return z + y


def thawing(x: Tensor) -> Tensor:
    return (x * 2).detach().requires_grad_()  # HY114


def thawing_by_assignment(x: Tensor) -> Tensor:
    y = (x * 2).detach()
    y.requires_grad = True  # HY114
    return y


def no_change(x: Tensor) -> Tensor:
    y = (x * 2).requires_grad_(True)
    return y * x


def other_data(x: Tensor) -> Tensor:
    y = x * 2
    y.data = x.detach() * 3  # HY114
    return y * x


def other_data_at_the_end(x: Tensor) -> Tensor:
    y = x * 2
    z = y + x
    y.data = x.detach() * 3
    return z


def written_through_data(x: Tensor) -> Tensor:
    y = x * 2
    y.data.mul_(5)  # HY114
    return y * x


def written_through_a_view_of_data(x: Tensor) -> Tensor:
    y = x * 2
    y.data[1:].mul_(5)  # HY114
    return y * x


def read_through_data(x: Tensor) -> Tensor:
    return x.data * x


def written_when_no_longer_used(x: Tensor) -> Tensor:
    y = x * 2
    z = (y + x).sum()
    return z + y.data.mul_(5).sum()


class TestContract(SafeguardContract):
    plugins = (plugin,)
    examples: ClassVar = tuple(
        SafeguardExample(program, (X,), remedy)
        for program, remedy in (
            (reversed_gradient, None),
            (straight_through, None),
            (twice_at_two_lines, None),
            (one_inside_the_other, None),
            (of_what_has_no_gradient, None),
            (differentiated_inside, None),
            (checkpointed, None),
            (with_hook, None),
            (with_hook_on_an_input, None),
            (with_hook_removed, None),
            (with_hook_on_the_unused, None),
            (with_hook_used_inside, None),
            (retaining, None),
            (retaining_inside, None),
            (detaching, detached),
            (detaching_the_unused, None),
            (detaching_a_constant, None),
            (freezing, None),
            (thawing, None),
            (thawing_by_assignment, None),
            (no_change, None),
            (other_data, None),
            (other_data_at_the_end, None),
            (written_through_data, None),
            (written_through_a_view_of_data, None),
            (read_through_data, None),
            (written_when_no_longer_used, None),
        )
    )


def test_a_function_that_calls_nothing_is_found() -> None:
    with pytest.raises(SafeguardError) as raised:
        plugin_session(plugin).capture(lambda x: Silent.apply(x) * x, (X,))
    assert raised.value.finding.code == "HY113"
    assert raised.value.location.file == __file__
    assert "Silent" in raised.value.message


def test_hooks_of_modules_are_found() -> None:
    model = nn.Linear(4, 4)
    model.register_full_backward_hook(lambda module, inputs, outputs: None)
    with pytest.raises(SafeguardError) as raised:
        plugin_session(plugin).capture(
            nn.Sequential(model), (torch.ones(2, 4, requires_grad=True),)
        )
    assert raised.value.finding.code == "HY113"


def test_custom_operators_keep_their_backward() -> None:
    """The remedy for a custom function."""

    @torch.library.custom_op("hopyard_test::reversed", mutates_args=())
    def reverse(x: Tensor) -> Tensor:
        return x.clone()

    reverse.register_fake(torch.empty_like)
    reverse.register_autograd(lambda ctx, gradient: -gradient)
    program = plugin_session(plugin).capture(lambda x: reverse(x) * x, (X,))
    assert program.findings == ()
    (found,) = torch.autograd.grad(program(X).sum(), X)
    (expected,) = torch.autograd.grad((reverse(X) * X).sum(), X)
    assert found.equal(expected)


def test_above_autograd_a_backward_is_lost_as_well() -> None:
    graph = hopyard.make_fx(reversed_gradient, tracing_mode="fake", pre_dispatch=True)(X)
    (found,) = torch.autograd.grad(graph(X).sum(), X)
    (expected,) = torch.autograd.grad(reversed_gradient(X).sum(), X)
    assert found.equal(-expected)


def test_an_allowed_line_is_recorded_with_its_reason() -> None:
    def program(x: Tensor) -> Tensor:
        with hopyard.allow("HY113", reason="its backward is that of the identity"):
            y = Reversed.apply(x)
        return y * x

    (finding,) = plugin_session(plugin).capture(program, (X,)).findings
    assert (finding.code, finding.policy) == ("HY113", Policy.RECORD)
    assert finding.allowed == "its backward is that of the identity"


@pytest.mark.parametrize("example", TestContract.examples, ids=str)
def test_captures_above_autograd_lose_no_less(example: SafeguardExample) -> None:
    """Where such a capture is possible, it is found to differ exactly if it does."""
    try:
        program = plugin_session(plugin).capture(
            example.program, example.args, pre_dispatch=True, policy=Policy.RECORD
        )
    except UnsupportedError:
        return
    eager = observed_effects(example.program, example.args)
    same = same_effects(eager, observed_effects(program, example.args))
    assert same == (not program.findings)
