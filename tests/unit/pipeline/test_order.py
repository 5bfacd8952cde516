"""Passes that must come before or after others."""

from __future__ import annotations

from typing import Any

import pytest

from hopyard.errors import OrderError
from hopyard.session import Session
from hopyard_hookspecs import Pass, hookimpl


def unused(*arguments: Any) -> Any:
    raise AssertionError("a pipeline that is only checked runs nothing")


class Passes:
    """`user` needs a `maker` before it, `opener` a `closer` after it; `late` goes after `user`."""

    @hookimpl
    def hopyard_register_passes(self) -> list[Pass]:
        return [
            Pass("user", unused, must_run_after=("maker",), runs_before=("late",)),
            Pass("opener", unused, must_run_before=("closer",)),
            Pass("late", unused, runs_after=("opener",)),
            *(Pass(name, unused) for name in ("maker", "closer", "other")),
        ]


@pytest.fixture(scope="module")
def session() -> Session:
    return Session(plugins=[Passes()], discover=False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "maker,user",
        "maker,other,user,user",
        "opener,other,closer",
        "opener,closer,opener,closer",
        "late",
        "maker,user,late",
        "opener,late,closer",
        "!user",
        "repeat(maker,user)",
        "maker,repeat(user)",
        "maker,regions(user)",
        "regions(maker,user)",
        "regions(maker),maker,user",
        "regions(maker,regions(user))",
    ],
)
def test_an_order_that_every_pass_allows(text: str, session: Session) -> None:
    assert str(session.pipeline(text)) == text


@pytest.mark.parametrize(
    ("text", "name", "other", "said"),
    [
        ("user", "user", "maker", "not in the pipeline"),
        ("user,maker", "user", "maker", "wrong side"),
        ("!maker,user", "user", "maker", "not in the pipeline"),
        ("!repeat(maker),user", "user", "maker", "not in the pipeline"),
        ("repeat(user,maker)", "user", "maker", "wrong side"),
        ("regions(maker),user", "user", "maker", "not in the pipeline"),
        ("regions(maker),regions(user)", "user", "maker", "not in the pipeline"),
        ("opener", "opener", "closer", "not in the pipeline"),
        ("closer,opener", "opener", "closer", "wrong side"),
        ("opener,closer,opener", "opener", "closer", "wrong side"),
        ("opener,regions(closer)", "opener", "closer", "not in the pipeline"),
        ("late,opener,closer", "late", "opener", "wrong side"),
        ("maker,late,user", "user", "late", "wrong side"),
    ],
)
def test_an_order_that_a_pass_rules_out(
    text: str, name: str, other: str, said: str, session: Session
) -> None:
    with pytest.raises(OrderError, match=said) as caught:
        session.pipeline(text)
    error = caught.value
    assert (error.name, error.other, error.stage) == (name, other, name)
    assert error.plugin is not None
    assert error.plugin.plugin == "passes"


@pytest.mark.parametrize("key", ["must_run_before", "must_run_after", "runs_before", "runs_after"])
def test_names_of_other_passes_are_checked(key: str) -> None:
    with pytest.raises(TypeError):
        Pass("a", unused, **{key: "bc"})
    with pytest.raises(ValueError, match="hyphens"):
        Pass("a", unused, **{key: ("B C",)})
    with pytest.raises(ValueError, match="itself"):
        Pass("a", unused, **{key: ("a",)})
