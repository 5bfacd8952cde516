"""Random passes on the base keep what programs compute, and never leave stale metadata behind.

`make sweep` runs many more of them, by `tests/property/run_passes.py`.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pass_sequences import check_sequence, sequences
from pipelines import KINDS

from hopyard import Session
from hopyard_export_pass import _plugin


@pytest.fixture(scope="module")
def session() -> Session:
    return Session(discover=False, plugins=[_plugin])


@pytest.mark.parametrize("name", KINDS)
@settings(
    max_examples=2,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
@given(data=st.data())
def test_passes_keep_what_a_program_computes(
    name: str, data: st.DataObject, session: Session
) -> None:
    check_sequence(session, KINDS[name], data.draw(sequences(3)))
