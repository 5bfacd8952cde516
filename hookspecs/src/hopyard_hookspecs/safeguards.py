"""Safeguards: what watches a capture for programs that their graph would misrepresent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from ._markers import hookspec, provisional
from ._names import check_hazard, check_kebab
from .types import Reference, SourceLocation


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
@dataclass(frozen=True, slots=True)
class Hazard:
    """A way in which a graph can differ from the program it was taken from.

    Attributes:
        code: Stable and unique, as `HY101`.
        title: A few words.
        remedy: What the user can do about it.
        policy: What becomes of findings unless the user says otherwise.
    """

    code: str
    title: str
    remedy: str
    policy: Policy = Policy.ERROR

    def __post_init__(self) -> None:
        check_hazard(self.code)


@provisional
@dataclass(frozen=True, slots=True)
class Finding:
    """One occurrence of a hazard.

    A check returns it with `code` and `message`; the kernel fills in the rest.
    """

    code: str
    message: str
    remedy: str = ""
    location: SourceLocation | None = None
    safeguard: str = ""
    policy: Policy = Policy.ERROR

    def __str__(self) -> str:
        where = f"{self.location}: " if self.location else ""
        what = f"{where}{self.code} {self.message}"
        return f"{what}; {self.remedy}" if self.remedy else what


@provisional
@dataclass(frozen=True, slots=True)
class ObservedCall:
    """A call of a watched function, seen before it runs.

    Attributes:
        function: The watched function.
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call.
        pre_dispatch: Whether the capture in progress records above autograd.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    pre_dispatch: bool


Check: TypeAlias = Callable[[ObservedCall], Finding | None]
"""Judges one observed call."""


@provisional
@dataclass(frozen=True, slots=True)
class Safeguard:
    """A named set of hazards and the functions to watch for them.

    Attributes:
        name: Lower-case words joined by hyphens, unique in a session.
        hazards: The hazards that the checks may report.
        watch: A callable without arguments that returns the checks by watched function. The kernel
            looks every function up in one dictionary, so a safeguard costs nothing where it does
            not look. Only what torch hands to a `TorchFunctionMode` is seen: functions of tensors,
            their methods, and functions that make tensors; not, for example,
            `torch.manual_seed`.
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
                yield Safeguard("dropout", (DROPOUT,), watch="my_plugin.watch:functions")

        And in `my_plugin/watch.py`:

        .. code-block:: python

            def check(call):
                if call.kwargs.get("training", True):
                    return Finding("MY001", "dropout would be part of the graph")
                return None

            def functions():
                return {torch.nn.functional.dropout: check}

    .. versionadded:: 0.1
    """
