"""The tests that every higher-order operator should pass, for its author to run."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from .._torch.dispatch import HigherOrderOperator
from ..errors import UnknownNameError
from ._compiled_surfaces import COMPILED_SURFACES
from ._hop_calls import HopSample
from ._hop_surfaces import SURFACES as UNCOMPILED_SURFACES
from ._hop_surfaces import Surface

SURFACES = (*UNCOMPILED_SURFACES, *COMPILED_SURFACES)
"""Everything that is checked, in order."""


@dataclass(frozen=True, slots=True)
class SurfaceVerdict:
    """Whether a call does on a surface what it means.

    Attributes:
        surface: The surface's name.
        sample: The sample's name.
        problem: What it does instead; "" if it does.
        rule: What an author can write about it.
    """

    surface: str
    sample: str
    problem: str
    rule: str

    def __str__(self) -> str:
        return f"{self.surface}: {self.problem or 'ok'}"


def check_hop(
    operator: HigherOrderOperator, samples: Sequence[HopSample], *, slow: bool = False
) -> list[SurfaceVerdict]:
    """Call an operator on every surface and return what came of it.

    Args:
        operator: What :func:`hopyard.bind` returned, or an operator of torch's.
        samples: Calls to try.
        slow: Whether to try the surfaces that take seconds for each call as well: Inductor and
            AOTInductor, which need a C++ compiler.
    """
    surfaces = [surface for surface in SURFACES if slow or not surface.slow]
    return [_judge(surface, operator, sample) for surface in surfaces for sample in samples]


def _judge(surface: Surface, operator: HigherOrderOperator, sample: HopSample) -> SurfaceVerdict:
    problem = ""
    try:
        with warnings.catch_warnings():
            # What torch deprecates in its own code is not the author's to answer for.
            warnings.simplefilter("ignore")
            surface.check(operator, sample)
    except AssertionError as failure:
        problem = str(failure)
    except Exception as error:  # noqa: BLE001 - whatever a surface raises is its answer
        problem = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return SurfaceVerdict(surface.name, sample.name, problem, surface.rule)


class HopContract:
    """The tests that every higher-order operator should pass; pytest runs them for each subclass.

    There is one test for each surface and sample. A failure says what broke and which rule to
    write.

    Example::

        class TestScaled(HopContract):
            operator = bind(SCALED)
            samples = (HopSample((torch.sin, torch.ones(3)), {"factor": 2.0}),)

    Attributes:
        operator: The operator.
        samples: Calls to try, each of another kind: one operand and several, one result and
            several, with and without what the body closes over.
        except_for: Names of surfaces that the operator is not meant for, and why.
        slow: Whether to try the surfaces that take seconds for each sample as well: Inductor and
            AOTInductor, which need a C++ compiler.
    """

    operator: ClassVar[HigherOrderOperator]
    samples: ClassVar[Sequence[HopSample]] = ()
    except_for: ClassVar[dict[str, str]] = {}
    slow: ClassVar[bool] = False

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Run each test for each surface and sample."""
        names = [each.name for each in SURFACES]
        for name in self.except_for:
            if name not in names:
                raise UnknownNameError("surface", name, names)
        if "surface" in metafunc.fixturenames:
            surfaces = [each for each in SURFACES if self.slow or not each.slow]
            surfaces = [each for each in surfaces if each.name not in self.except_for]
            metafunc.parametrize("surface", surfaces, ids=[each.name for each in surfaces])
        if "sample" in metafunc.fixturenames:
            metafunc.parametrize("sample", self.samples, ids=str)

    def test_surface(self, surface: Surface, sample: HopSample) -> None:
        """A call does on the surface what it means."""
        verdict = _judge(surface, type(self).operator, sample)
        if verdict.problem:
            raise AssertionError(
                f"{type(self).operator.name()} on {surface.name}: {verdict.problem}; "
                f"what decides it is {verdict.rule}"
            )
