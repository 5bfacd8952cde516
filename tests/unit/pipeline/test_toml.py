"""Pipelines as TOML: what is written is read back, and what is no pipeline is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopyard.errors import HopyardError, UsageError
from hopyard.pipeline import Item, Pipeline, Regions, Repeat, Step

names = st.sampled_from(["a", "fold-scale", "pass", "step"])
texts = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
options = st.dictionaries(
    st.sampled_from(["x", "none", "a-b", "_"]), scalars | st.lists(scalars, max_size=3), max_size=3
)
steps = st.builds(Step, names, options, st.booleans())


def groups(items: st.SearchStrategy[Item]) -> st.SearchStrategy[Item]:
    inside = st.lists(items, max_size=3).map(tuple)
    repeats = st.builds(Repeat, inside, st.integers(1, 20), st.booleans(), st.booleans())
    return repeats | st.builds(Regions, inside, st.sampled_from([(), ("cond",)]), st.booleans())


pipelines = st.builds(
    Pipeline, st.lists(st.recursive(steps, groups, max_leaves=6), max_size=3).map(tuple)
)


@given(pipelines)
def test_what_is_written_is_read_back(pipeline: Pipeline) -> None:
    again = Pipeline.from_toml(pipeline.to_toml())
    assert again == pipeline
    assert again.to_toml() == pipeline.to_toml()


def test_it_reads_as_people_write_it() -> None:
    text = """
    [[step]]
    pass = "decompose"
    options.table = "core-aten"

    [[step]]
    group = "repeat"
    options = { most = 3 }
    [[step.step]]
    pass = "cse"
    enabled = false
    [[step.step]]
    pass = "dce"
    """
    assert str(Pipeline.from_toml(text)) == "decompose{table=core-aten},repeat{most=3}(!cse,dce)"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[step", "end of document"),
        ("name = 1", "'name'"),
        ("step = 1", "no table"),
        ("step = [1]", "step 1 of the file is no table"),
        ("[[step]]", "neither which pass nor which group"),
        ('[[step]]\npass = "a"\ngroup = "repeat"', "neither"),
        ("[[step]]\npass = 1", "neither"),
        ('[[step]]\npass = "a"\n[[step.step]]\npass = "b"', "'step'"),
        ('[[step]]\ngroup = "repeat"\n[[step.step]]\npas = "b"', "step 1 of step 1"),
        ('[[step]]\npass = "a"\nenabled = 0', "neither enabled"),
        ('[[step]]\npass = "a"\noptions = 1', "no table"),
        ('[[step]]\npass = "a"\noptions = { x = { y = 1 } }', "'y'"),
        ('[[step]]\npass = "a"\noptions = { x = 1979-05-27 }', "date"),
        ('[[step]]\npass = "a b"', "name of a pass"),
        ('[[step]]\ngroup = "again"', "again"),
        ('[[step]]\ngroup = "repeat"\noptions = { most = 0 }', "1 round"),
    ],
)
def test_what_is_no_pipeline_is_refused(text: str, said: str) -> None:
    with pytest.raises(HopyardError) as caught:
        Pipeline.from_toml(text)
    assert isinstance(caught.value, UsageError)
    assert said in str(caught.value)


def test_toml_has_no_halves_of_characters() -> None:
    with pytest.raises(UsageError):
        Pipeline().append("a", x="\ud800").to_toml()
