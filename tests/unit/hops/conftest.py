"""Higher-order operators under names that no other test uses."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from hopyard.hops import Operator, bind
from hopyard_hookspecs import Hop

_numbers = itertools.count()


@pytest.fixture
def define() -> Callable[..., Hop]:
    """Make a definition under a fresh name; bound names stay for the life of the process."""

    def make(eager: Callable[..., Any] | None = None, **fields: Any) -> Hop:
        if eager is not None:
            fields["eager"] = eager
        return Hop(f"hop_tests__region{next(_numbers)}", **fields)

    return make


def scaled(body: Callable[..., Any], *operands: Any, factor: float = 2.0, **config: Any) -> Any:
    """A region that does more than run its body, so that a rule which forgets it is found out."""
    result = body(*operands)
    if isinstance(result, (list, tuple)):
        return type(result)([factor * item for item in result])
    return factor * result


@pytest.fixture
def region(define: Callable[..., Hop]) -> Operator:
    return bind(define(scaled))


@pytest.fixture
def operator(define: Callable[..., Hop]) -> Operator:
    """An operator without a body."""
    return bind(define(lambda x, y, *, factor=2.0: factor * x * y.sin(), kind="operator"))
