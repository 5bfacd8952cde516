"""Safeguards: what watches a capture for programs that their graph would misrepresent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from ._markers import hookspec, provisional
from ._names import check_hazard, check_kebab
from .types import Reference, SourceLocation

if TYPE_CHECKING:
    from torch.fx import Graph, Node


@provisional
class Policy(Enum):
    """What becomes of a finding."""

    ERROR = "error"
    """The capture is refused."""
    WARN = "warn"
    """A warning is issued and the finding is kept."""
    RECORD = "record"
    """The finding is kept with the program."""
    IGNORE = "ignore"
    """Nothing."""


@provisional
class Severity(Enum):
    """How bad a hazard is where it occurs."""

    ERROR = "error"
    """Results, gradients or state of the graph differ from the program's."""
    WARNING = "warning"
    """They may differ."""
    NOTE = "note"
    """They do not; somebody may want to know."""

    @property
    def policy(self) -> Policy:
        """What becomes of findings unless the user says otherwise."""
        return _DEFAULT_POLICIES[self]


_DEFAULT_POLICIES = {
    Severity.ERROR: Policy.ERROR,
    Severity.WARNING: Policy.WARN,
    Severity.NOTE: Policy.RECORD,
}


@provisional
@dataclass(frozen=True, slots=True)
class Hazard:
    """A way in which a graph can differ from the program it was taken from.

    Attributes:
        code: Stable and unique, as `HY101`.
        title: A few words.
        remedy: What the user can do about it.
        severity: How bad it is; decides what becomes of findings unless the user says otherwise.
        page: Where it is explained: an address, or a page of the documentation; "" if nowhere.
    """

    code: str
    title: str
    remedy: str
    severity: Severity = Severity.ERROR
    page: str = ""

    def __post_init__(self) -> None:
        check_hazard(self.code)


@provisional
@dataclass(frozen=True, slots=True)
class Finding:
    """One occurrence of a hazard.

    A safeguard returns it with `code` and `message`; the kernel fills in the rest.

    Attributes:
        code: The hazard's.
        message: What the program does, and what its graph would do instead.
        remedy: What the user can do about it.
        location: The line of the user's source.
        safeguard: The name of the safeguard.
        severity: How bad it is.
        policy: What became of the finding.
        allowed: The reason given by the user who allowed it at its line; "" if nobody did.
    """

    code: str
    message: str
    remedy: str = ""
    location: SourceLocation | None = None
    safeguard: str = ""
    severity: Severity = Severity.ERROR
    policy: Policy = Policy.ERROR
    allowed: str = ""

    def __str__(self) -> str:
        where = f"{self.location}: " if self.location else ""
        what = f"{where}{self.code} {self.message}"
        if self.allowed:
            return f"{what}; allowed: {self.allowed}"
        return f"{what}; {self.remedy}" if self.remedy else what


@provisional
@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """A point in the recording of a graph; what lies between two is asked of the recording.

    Attributes:
        graph: The graph that was being recorded.
        last: The last node that it had, if it had any.
    """

    graph: Graph
    last: Node | None


@provisional
@dataclass(frozen=True, slots=True)
class ObservedCall:
    """A call of a watched function, seen before it runs.

    Attributes:
        function: The watched function.
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call.
        pre_dispatch: Whether the capture in progress records above autograd.
        moment: How far the recording is.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    pre_dispatch: bool
    moment: Moment


@provisional
class GradientFlow(Protocol):
    """Where gradients go when somebody differentiates a recorded graph.

    A graph knows no grad mode: every floating-point value that depends on an input has a gradient,
    whatever the program did about it. In-place operators and views are followed.
    """

    def carries(self, node: Node) -> bool:
        """Say whether a gradient passes through `node` on its way from a result to an input."""

    def viewed(self, node: Node) -> Node | None:
        """Return the operand whose memory the value of `node` is in, if it is in one's."""

    def base(self, node: Node) -> Node:
        """Return the node in whose memory the value of `node` is; itself if that is its own."""

    def writes(self, node: Node) -> Sequence[Node]:
        """Return the in-place operators that change the memory of `node`, in order."""

    def operands(self, node: Node) -> Sequence[Node]:
        """Return what the value of `node` depends on: its operands, and who wrote to them last."""


@provisional
class Recording(Protocol):
    """A recorded program, before anything was changed about its graph.

    Attributes:
        graph: The graph as recorded, in-place operators included.
        result: What the program returned, flat: tensors without data, and with the autograd history
            that they have in eager. None for the body of a higher-order operator.
        constants: Names of the placeholders through which no gradient is asked for: the module's
            buffers.
    """

    graph: Graph
    result: Sequence[Any] | None
    constants: frozenset[str]

    @property
    def gradient_flow(self) -> GradientFlow:
        """Where gradients go when the graph is differentiated."""

    def between(self, start: Moment, end: Moment | None = None) -> Sequence[Node]:
        """Return the nodes recorded between two moments, or since one."""


@provisional
@dataclass(frozen=True, slots=True)
class Suspicion:
    """What may prove to be a finding once the program is recorded as a whole.

    Attributes:
        finding: The finding, if it is one.
        confirm: Decides; returns the finding, another in its place, or None. It may come without a
            location, which is that of the suspicion then.
    """

    finding: Finding
    confirm: Callable[[Recording], Finding | None]


Check: TypeAlias = Callable[[ObservedCall], Finding | Suspicion | None]
"""Judges one observed call."""

OperatorCheck: TypeAlias = Callable[["Node", Recording], Finding | None]
"""Judges one recorded operator."""

Review: TypeAlias = Callable[[Recording], Iterable[Finding]]
"""Judges a recorded program."""


@provisional
@dataclass(frozen=True, slots=True)
class State:
    """Something outside of the graph that a program may change.

    Attributes:
        read: Returns the state; called right before and right after the program runs.
        check: Compares both.
    """

    read: Callable[[], Any]
    check: Callable[[Any, Any], Finding | None]


@provisional
@dataclass(frozen=True, slots=True)
class Watch:
    """What a safeguard looks at during one capture.

    Attributes:
        functions: Checks by function. The kernel looks every function up in one dictionary, so a
            safeguard costs nothing where it does not look. Only what torch hands to a
            `TorchFunctionMode` is seen: functions of tensors, their methods, and functions that
            make tensors; not, for example, `torch.manual_seed`. The kernel adds a few that torch
            does not hand over; see `hopyard.safeguards`.
        operators: Checks by operator overload, for each node of the recorded program.
        states: What is compared before and after.
        review: Looks at the recorded program as a whole.
    """

    functions: Mapping[Callable[..., Any], Check] = field(default_factory=dict)
    operators: Mapping[Callable[..., Any], OperatorCheck] = field(default_factory=dict)
    states: Sequence[State] = ()
    review: Review | None = None


@provisional
@dataclass(frozen=True, slots=True)
class Safeguard:
    """A named set of hazards and what to look at for them.

    Attributes:
        name: Lower-case words joined by hyphens, unique in a session.
        hazards: The hazards that it may report.
        watch: A callable without arguments that returns a :class:`Watch`; called once for each
            capture, so that its checks may keep what they saw.
        summary: One line for listings.
    """

    name: str
    hazards: tuple[Hazard, ...]
    watch: Reference
    summary: str = ""

    def __post_init__(self) -> None:
        check_kebab("safeguard", self.name)


@provisional
@hookspec
def hopyard_register_safeguards() -> Iterable[Safeguard]:  # type: ignore[empty-body]
    """Yield the safeguards that watch captures; called once when a session is made.

    Example:
        .. code-block:: python

            DROPOUT = Hazard("MY001", "dropout in a capture", remedy="call model.eval() first")

            @hookimpl
            def hopyard_register_safeguards():
                yield Safeguard("dropout", (DROPOUT,), watch="my_plugin.watch:watch")

        And in `my_plugin/watch.py`:

        .. code-block:: python

            def check(call):
                if call.kwargs.get("training", True):
                    return Finding("MY001", "dropout would be part of the graph")
                return None

            def watch():
                return Watch(functions={torch.nn.functional.dropout: check})

    .. versionadded:: 0.1
    """
