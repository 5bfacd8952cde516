"""What a set of safeguards watches during one capture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from hopyard_hookspecs import (
    Check,
    Hazard,
    OperatorCheck,
    Provider,
    Review,
    Safeguard,
    State,
    Watch,
)

from ..errors import HopyardError, PluginError
from ..plugins import Registered, resolve
from ..policies import hazards_of

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Watched(Generic[T]):
    """A check, and who stands behind it."""

    check: T
    safeguard: Safeguard
    provider: Provider | None

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a part of the safeguard.

        Raises:
            PluginError: It raised.
        """
        try:
            return function(*args)
        except HopyardError:
            raise
        except Exception as error:
            raise broken(self.safeguard, self.provider, error) from error


@dataclass(frozen=True, slots=True)
class WatchList:
    """What a set of safeguards watches during one capture.

    Attributes:
        functions: The checks of each watched function.
        operators: The checks of each watched operator overload.
        states: What is compared before and after.
        reviews: What looks at the recorded program as a whole.
        hazards: Every hazard that may be reported, by code.
    """

    functions: Mapping[Callable[..., Any], tuple[Watched[Check], ...]]
    operators: Mapping[Callable[..., Any], tuple[Watched[OperatorCheck], ...]]
    states: tuple[Watched[State], ...]
    reviews: tuple[Watched[Review], ...]
    hazards: Mapping[str, Hazard]

    @classmethod
    def of(cls, safeguards: Iterable[Registered[Safeguard]]) -> WatchList:
        """Ask `safeguards` what to watch, in order.

        Raises:
            PluginError: A safeguard cannot say what it watches.
            DuplicateNameError: Two safeguards mean different hazards by one code.
        """
        registered = tuple(safeguards)
        functions: dict[Any, list[Watched[Check]]] = defaultdict(list)
        operators: dict[Any, list[Watched[OperatorCheck]]] = defaultdict(list)
        states: list[Watched[State]] = []
        reviews: list[Watched[Review]] = []
        for each in registered:
            safeguard, provider = each.value, each.provider
            watch = _watch(safeguard, provider)
            for function, check in watch.functions.items():
                functions[function].append(Watched(check, safeguard, provider))
            for operator, judge in watch.operators.items():
                operators[operator].append(Watched(judge, safeguard, provider))
            states += [Watched(state, safeguard, provider) for state in watch.states]
            if watch.review is not None:
                reviews.append(Watched(watch.review, safeguard, provider))
        return cls(
            {function: tuple(checks) for function, checks in functions.items()},
            {operator: tuple(checks) for operator, checks in operators.items()},
            tuple(states),
            tuple(reviews),
            hazards_of(registered),
        )


def broken(safeguard: Safeguard, provider: Provider | None, error: Exception) -> PluginError:
    """Return what to raise when a safeguard fails."""
    return PluginError(
        f"the safeguard raised {type(error).__name__}: {error}",
        hint="report it to the plugin's authors, or disable the plugin",
        plugin=provider,
        stage=safeguard.name,
    )


def _watch(safeguard: Safeguard, provider: Provider | None) -> Watch:
    make: Any = resolve(safeguard.watch, provider)
    try:
        watch = make()
        if not isinstance(watch, Watch):
            raise TypeError(f"it watches a {type(watch).__name__} instead of a Watch")
    except Exception as error:
        raise broken(safeguard, provider, error) from error
    return watch
