"""Random passes, and random pipelines of standard ones, keep what programs compute.

They never leave stale metadata behind either. `make sweep` runs many more of them, by
`tests/property/run_passes.py`.
"""

from __future__ import annotations

import pytest
from hypothesis import Phase
from pipelines import KINDS, check
from subjects import SUBJECTS, new_session

from hopyard import Pipeline, Session


@pytest.fixture(scope="module")
def session() -> Session:
    return new_session()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_program_computes_what_it_did(subject: str, name: str, session: Session) -> None:
    chosen = SUBJECTS[subject]
    chosen.test(
        session,
        KINDS[name],
        chosen.most // 2,
        max_examples=3,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
    )()


@pytest.mark.parametrize("name", KINDS)
def test_all_passes_one_after_the_other(name: str, session: Session) -> None:
    kind = KINDS[name]
    text = "functionalize,fold-conv-bn,fold-constants{freeze=true},fuse-linear-activation"
    rest = "repeat(decompose,remove-no-ops,cse,dce)" if not kind.random else "repeat(cse,dce)"
    check(session, kind, Pipeline.parse(f"{text},{rest}"))
