"""Random pipelines of standard passes keep what programs compute.

`make sweep` runs many more of them, by `tests/property/run_pipelines.py`.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pipelines import KINDS, check, pipelines

from hopyard import Pipeline, Session
from hopyard_export_pass import _plugin


@pytest.fixture(scope="module")
def session() -> Session:
    return Session(discover=False, plugins=[_plugin])


@pytest.mark.parametrize("name", KINDS)
@settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
@given(data=st.data())
def test_a_pipeline_keeps_what_a_program_computes(
    name: str, data: st.DataObject, session: Session
) -> None:
    kind = KINDS[name]
    check(session, kind, data.draw(pipelines(decompose=not kind.random, most=4)))


@pytest.mark.parametrize("name", KINDS)
def test_all_passes_one_after_the_other(name: str, session: Session) -> None:
    kind = KINDS[name]
    text = "functionalize,fold-conv-bn,fold-constants{freeze=true},fuse-linear-activation"
    rest = "repeat(decompose,remove-no-ops,cse,dce)" if not kind.random else "repeat(cse,dce)"
    check(session, kind, Pipeline.parse(f"{text},{rest}"))
