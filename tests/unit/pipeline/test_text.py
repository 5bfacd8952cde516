"""Pipeline text: what is read, what is written, and that the two agree."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopyard.errors import OptionError, PipelineSyntaxError, UnknownNameError, UsageError
from hopyard.pipeline import Item, Pipeline, Regions, Repeat, Step

names = st.from_regex(r"[a-z][a-z0-9]{0,5}(-[a-z0-9]{1,4}){0,2}", fullmatch=True)
option_names = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
words = st.sampled_from(["core-aten", "true", "none", "inf", "nan", "1", "1.5", "", "a b", "a:b.c"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | words
values = scalars | st.lists(scalars, max_size=4)
steps = st.builds(Step, names, st.dictionaries(option_names, values, max_size=4), st.booleans())


def groups(items: st.SearchStrategy[Item]) -> st.SearchStrategy[Item]:
    inside = st.lists(items, max_size=3).map(tuple)
    repeats = st.builds(Repeat, inside, st.integers(1, 20), st.booleans(), st.booleans())
    operators = st.lists(names, max_size=2).map(tuple)
    return repeats | st.builds(Regions, inside, operators, st.booleans())


items = st.recursive(steps, groups, max_leaves=6)
pipelines = st.builds(Pipeline, st.lists(items, max_size=4).map(tuple))


@given(pipelines)
def test_what_is_written_is_read_back(pipeline: Pipeline) -> None:
    text = str(pipeline)
    again = Pipeline.parse(text)
    assert again == pipeline
    assert hash(again) == hash(pipeline)
    assert str(again) == text


@given(pipelines)
def test_values_keep_their_type_through_text(pipeline: Pipeline) -> None:
    for step, again in zip(pipeline.passes, Pipeline.parse(str(pipeline)).passes, strict=True):
        assert again.options.keys() == step.options.keys()
        for option, value in step.options.items():
            assert repr(again.options[option]) == repr(value)


@given(st.text(alphabet='ab-_=,{}[]()!"\\ 01.e+\n', max_size=20))
def test_any_text_is_read_or_refused_in_place(text: str) -> None:
    refused: PipelineSyntaxError | None = None
    try:
        pipeline = Pipeline.parse(text)
    except PipelineSyntaxError as error:
        refused = error
    except UnknownNameError:
        return  # what a group does is none of the words this text is made of
    if refused is None:
        assert Pipeline.parse(str(pipeline)) == pipeline
    else:
        assert 0 <= refused.position <= len(text)
        assert refused.expected


def test_text_of_the_manual() -> None:
    pipeline = Pipeline.parse("decompose{table=core-aten},fold-scale{factor=10},dce")
    assert [step.name for step in pipeline.steps] == ["decompose", "fold-scale", "dce"]
    assert dict(pipeline.steps[0].options) == {"table": "core-aten"}
    assert dict(pipeline.steps[1].options) == {"factor": 10}


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("", ""),
        (" \n ", ""),
        ("dce{}", "dce"),
        (" a { y = 1 , x = [ 1 , b ] } ,\n b ", "a{x=[1,b],y=1},b"),
        ('a{x="plain"}', "a{x=plain}"),
        ('a{x="true",y=true}', 'a{x="true",y=true}'),
        ("a{x=1e3}", "a{x=1000.0}"),
        ("a{x=+5,y=-0.0,z=.5}", "a{x=5,y=-0.0,z=0.5}"),
        ("a{x=pkg.mod:name}", "a{x=pkg.mod:name}"),
        (r'a{x="\u00e9 \"q\""}', 'a{x="é \\"q\\""}'),
        ("a{x=[]}", "a{x=[]}"),
        (" ! a , repeat { most = 10 } ( b ,! c ) ", "!a,repeat(b,!c)"),
        ("!repeat{settle=true,most=3}(b)", "!repeat{most=3}(b)"),
        ("regions{of=cond}(a{x=1},repeat())", "regions{of=[cond]}(a{x=1},repeat())"),
        ("repeat,repeat()", "repeat,repeat()"),
    ],
)
def test_text_has_one_canonical_form(text: str, canonical: str) -> None:
    assert str(Pipeline.parse(text)) == canonical


@pytest.mark.parametrize(
    ("text", "position", "expected"),
    [
        (",", 0, "name of a pass"),
        ("a,", 2, "name of a pass"),
        ("a b", 2, "','"),
        ("a{", 2, "name of an option"),
        ("a{x}", 3, "'='"),
        ("a{x=}", 4, "a number"),
        ("a{x=1", 5, "'}'"),
        ("a{x=1,x=2}", 6, "other than 'x'"),
        ("a{x=8da4w}", 4, "quotes"),
        ('a{x="b}', 4, "text in quotes"),
        (r'a{x="\q"}', 5, "text in quotes"),
        ("a{x=[1,]}", 7, "a number"),
        ("a{x=[[1]]}", 5, "a number"),
        ("a}", 1, "','"),
        ("repeat(a", 8, "')'"),
        ("repeat(a,)", 9, "name of a pass"),
        ("a)", 1, "','"),
        (")", 0, "name of a pass"),
        ("!!a", 1, "name of a pass"),
        ("repeat(" * 51, 357, "50 groups"),
        ("a{x=" + "9" * 5000 + "}", 4, "digits"),
    ],
)
def test_an_error_says_where_and_what_was_expected(text: str, position: int, expected: str) -> None:
    with pytest.raises(PipelineSyntaxError) as caught:
        Pipeline.parse(text)
    assert caught.value.position == position
    assert expected in caught.value.expected


def test_values_that_python_finds_equal_are_different_options() -> None:
    assert len({Step("a", {"x": value}) for value in (1, 1.0, True, "1")}) == 4
    assert Step("a", {"x": float("nan")}) == Step("a", {"x": float("nan")})
    assert Step("a", {"x": 1, "y": 2}) == Step("a", {"y": 2, "x": 1})
    assert Step("a") != "a"


@pytest.mark.parametrize(
    "value",
    [
        object(),
        [[1]],
        {"a": 1},
        1j,
        b"x",
        pytest.param(10**4500, id="a number Python cannot write"),
    ],
)
def test_what_text_cannot_give_is_no_option(value: object) -> None:
    with pytest.raises(OptionError) as caught:
        Pipeline().append("dce", x=value)
    assert caught.value.stage == "dce"


@pytest.mark.parametrize("name", ["", "a,b", "a{", "1a", "a b"])
def test_a_name_that_text_cannot_give_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        Step(name)
    with pytest.raises(OptionError):
        Step("a", {name: 1})


def test_pipelines_are_values() -> None:
    given: dict[str, list[int]] = {"x": [1]}
    pipeline = Pipeline((Step("a", given),))
    given["x"].append(2)
    assert pipeline == Pipeline.parse("a{x=[1]}")
    with pytest.raises(TypeError):
        pipeline.steps[0].options["x"] = 2  # type: ignore[index]
    assert copy.deepcopy(pipeline) == pickle.loads(pickle.dumps(pipeline)) == pipeline


def test_pipelines_are_put_together() -> None:
    start = Pipeline.parse("a")
    assert str(start.append("b", n=2) + Pipeline.parse("c")) == "a,b{n=2},c"
    assert str(start) == "a"
    assert len(start + start) == 2
    assert not Pipeline()
    with pytest.raises(TypeError):
        start + "b"  # type: ignore[operator]


def test_an_option_may_have_any_name_python_allows() -> None:
    assert str(Pipeline().append("a", name="x", self=1)) == "a{name=x,self=1}"


def test_reading_pipelines_needs_no_torch() -> None:
    program = (
        "import sys; from hopyard.pipeline import Pipeline; Pipeline.parse('a{b=1}');"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("reapeat(a)", UnknownNameError),
        ("repeat{most=0}(a)", OptionError),
        ("repeat{most=1.0}(a)", OptionError),
        ("repeat{settle=1}(a)", OptionError),
        ("repeat{more=1}(a)", OptionError),
        ("repeat{steps=1}(a)", OptionError),
        ("regions{of=1}(a)", OptionError),
        ("regions{of=[1]}(a)", OptionError),
    ],
)
def test_a_group_refuses_what_it_cannot_do(text: str, error: type[UsageError]) -> None:
    with pytest.raises(error):
        Pipeline.parse(text)


@pytest.mark.parametrize("steps", [("dce",), [1], (Pipeline(),)])
def test_a_pipeline_consists_of_steps(steps: Any) -> None:
    for kind in (Pipeline, Repeat, Regions):
        with pytest.raises(UsageError):
            kind(steps)


def test_a_pipeline_is_edited_by_name() -> None:
    pipeline = Pipeline.parse("a,repeat(b,a),regions{of=cond}(c),a{x=1}")
    assert str(pipeline.insert_before("a", "n", k=1)) == (
        "n{k=1},a,repeat(b,a),regions{of=[cond]}(c),a{x=1}"
    )
    assert str(pipeline.insert_after("b", Pipeline.parse("n,repeat(m)"))) == (
        "a,repeat(b,n,repeat(m),a),regions{of=[cond]}(c),a{x=1}"
    )
    assert str(pipeline.insert_after("a", "n")) == ("a,repeat(b,a),regions{of=[cond]}(c),a{x=1},n")
    assert str(pipeline.replace("a", "n", k=1)) == (
        "n{k=1},repeat(b,n{k=1}),regions{of=[cond]}(c),n{k=1}"
    )
    assert str(pipeline.without("c")) == "a,repeat(b,a),a{x=1}"
    assert str(pipeline.disable("a")) == "!a,repeat(b,!a),regions{of=[cond]}(c),!a{x=1}"
    assert pipeline.disable("a").enable("a") == pipeline
    assert str(pipeline) == "a,repeat(b,a),regions{of=[cond]}(c),a{x=1}"


def test_what_is_not_in_a_pipeline_cannot_be_edited() -> None:
    pipeline = Pipeline.parse("fold-scale,repeat(cse)")
    edits: list[Callable[[str], Pipeline]] = [
        pipeline.without,
        pipeline.disable,
        pipeline.enable,
        lambda name: pipeline.insert_before(name, "n"),
        lambda name: pipeline.insert_after(name, "n"),
        lambda name: pipeline.replace(name, "n"),
    ]
    for edit in edits:
        with pytest.raises(UnknownNameError) as caught:
            edit("fold-scales")
        assert caught.value.closest == "fold-scale"
