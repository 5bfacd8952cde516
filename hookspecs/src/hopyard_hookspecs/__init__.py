"""Hook specifications and value types shared by Hopyard and its plugins.

A plugin imports :data:`hookimpl` and the value types it yields; Hopyard adds :func:`specifications`
to its plugin manager. Importing this package imports pluggy and nothing heavier.
"""

from __future__ import annotations

from types import ModuleType

from . import backends, decompositions, hops, modes, passes, pipeline, safeguards
from ._markers import ENTRY_POINT_GROUP as ENTRY_POINT_GROUP
from ._markers import PROJECT as PROJECT
from ._markers import hookimpl as hookimpl
from ._markers import hookspec as hookspec
from ._markers import is_provisional as is_provisional
from .backends import Backend as Backend
from .backends import BackendImplementation as BackendImplementation
from .backends import Concurrency as Concurrency
from .backends import Fingerprinted as Fingerprinted
from .backends import Lowered as Lowered
from .backends import RunsBackward as RunsBackward
from .backends import RunsPartitions as RunsPartitions
from .backends import Support as Support
from .decompositions import Decompositions as Decompositions
from .hops import Hop as Hop
from .hops import HopKind as HopKind
from .hops import TraceRule as TraceRule
from .modes import Mode as Mode
from .modes import Report as Report
from .modes import ReportingMode as ReportingMode
from .passes import GraphPass as GraphPass
from .passes import Pass as Pass
from .passes import PassKind as PassKind
from .passes import PassResult as PassResult
from .pipeline import Origin as Origin
from .pipeline import PassRecord as PassRecord
from .pipeline import PassStep as PassStep
from .safeguards import Check as Check
from .safeguards import Finding as Finding
from .safeguards import GradientFlow as GradientFlow
from .safeguards import Hazard as Hazard
from .safeguards import Moment as Moment
from .safeguards import ObservedCall as ObservedCall
from .safeguards import OperatorCheck as OperatorCheck
from .safeguards import Policy as Policy
from .safeguards import Recording as Recording
from .safeguards import Review as Review
from .safeguards import Safeguard as Safeguard
from .safeguards import Severity as Severity
from .safeguards import State as State
from .safeguards import Suspicion as Suspicion
from .safeguards import Watch as Watch
from .types import CaptureRequest as CaptureRequest
from .types import Provider as Provider
from .types import Reference as Reference
from .types import SourceLocation as SourceLocation
from .types import TracingMode as TracingMode


def specifications() -> tuple[ModuleType, ...]:
    """Return the modules that declare hooks, in the order in which documentation lists them."""
    return (modes, hops, decompositions, safeguards, passes, backends, pipeline)
