"""The one function mode through which all safeguards watch a capture."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch.overrides import TorchFunctionMode

from hopyard_hookspecs import Check, Finding, Hazard, ObservedCall, Policy, Provider, Safeguard

from .._torch.proxies import current_proxy_mode
from ..errors import (
    DuplicateNameError,
    HopyardError,
    PluginError,
    SafeguardError,
    UnknownNameError,
    UsageError,
)
from ..plugins import Registered, resolve
from ..tracing import current_location

Watch = tuple[Check, Safeguard, Provider | None]


@dataclass(frozen=True, slots=True)
class WatchList:
    """What a set of safeguards watches.

    Attributes:
        checks: The checks of each watched function.
        hazards: Every hazard that a check may report, by code.
    """

    checks: Mapping[Callable[..., Any], tuple[Watch, ...]]
    hazards: Mapping[str, Hazard]

    @classmethod
    def of(cls, safeguards: Iterable[Registered[Safeguard]]) -> WatchList:
        """Collect the watches of `safeguards`, in order.

        Raises:
            PluginError: A safeguard cannot say what it watches.
            DuplicateNameError: Two safeguards mean different hazards by one code.
        """
        checks: dict[Callable[..., Any], tuple[Watch, ...]] = {}
        hazards: dict[str, Hazard] = {}
        declared_by: dict[str, Provider] = {}
        for registered in safeguards:
            safeguard, provider = registered.value, registered.provider
            for hazard in safeguard.hazards:
                if hazards.setdefault(hazard.code, hazard) != hazard:
                    claimants = (declared_by[hazard.code], provider)
                    raise DuplicateNameError("hazard", hazard.code, claimants)
                declared_by.setdefault(hazard.code, provider)
            for function, check in _watched(safeguard, provider).items():
                watch = (check, safeguard, provider)
                checks[function] = (*checks.get(function, ()), watch)
        return cls(checks, hazards)


class Observer(TorchFunctionMode):
    """Looks every function call of the captured program up in one dictionary.

    It reports only while a tracer is active, so that what happens before, after or outside of a
    capture remains free.

    Args:
        watched: What to look for.
        policies: What becomes of findings, by code, where it differs from the hazard's own policy.
        findings: Receives findings that do not refuse the capture.

    Attributes:
        refusal: The first error that refused the capture, also if the captured program swallowed
            it: a finding, or a check that failed.
    """

    def __init__(
        self,
        watched: WatchList,
        policies: Mapping[str, Policy],
        findings: list[Finding],
    ) -> None:
        super().__init__()
        for code, policy in policies.items():
            if code not in watched.hazards:
                raise UnknownNameError("hazard", code, watched.hazards)
            if not isinstance(policy, Policy):
                raise UsageError(
                    f"the policy for {code} is {policy!r}",
                    hint=f"write one of {', '.join(map(str, Policy))}",
                    stage="capture",
                )
        self._watched = watched
        self._policies = policies
        self._findings = findings
        self.refusal: HopyardError | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Check a watched call, then let it happen."""
        kwargs = kwargs or {}
        watches = self._watched.checks.get(func)
        if watches is not None:
            self._inspect(watches, func, args, kwargs)
        return func(*args, **kwargs)

    def _inspect(
        self,
        watches: tuple[Watch, ...],
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        tracer_mode = current_proxy_mode()
        if tracer_mode is None:
            return
        call = ObservedCall(func, args, kwargs, pre_dispatch=bool(tracer_mode.pre_dispatch))
        try:
            for check, safeguard, provider in watches:
                finding = _run(check, call, safeguard, provider)
                if finding is not None:
                    self._act(finding, safeguard, provider)
        except HopyardError as refusal:
            self.refusal = self.refusal or refusal
            raise

    def _act(self, finding: Finding, safeguard: Safeguard, provider: Provider | None) -> None:
        declared = {hazard.code: hazard for hazard in safeguard.hazards}
        hazard = declared.get(finding.code)
        if hazard is None:
            raise PluginError(
                f"reported {finding.code}, which it did not declare",
                hint=f"declared hazards: {', '.join(declared)}",
                plugin=provider,
                stage=safeguard.name,
            )
        policy = self._policies.get(finding.code, hazard.policy)
        complete = dataclasses.replace(
            finding,
            remedy=finding.remedy or hazard.remedy,
            location=finding.location or current_location(),
            safeguard=safeguard.name,
            policy=policy,
        )
        if policy is Policy.ERROR:
            raise SafeguardError(complete, plugin=provider)
        if policy is Policy.IGNORE or complete in self._findings:
            return
        self._findings.append(complete)
        if policy is Policy.WARN:
            _warn(complete)


def _warn(finding: Finding) -> None:
    where = finding.location
    if where is None:
        warnings.warn(str(finding), stacklevel=2)
    else:
        warnings.warn_explicit(str(finding), UserWarning, where.file, where.line)


def _watched(safeguard: Safeguard, provider: Provider | None) -> Mapping[Any, Check]:
    watch = resolve(safeguard.watch, provider)
    try:
        return dict(watch())  # type: ignore[operator]
    except Exception as error:
        raise _broken(safeguard, provider, error) from error


def _run(
    check: Check, call: ObservedCall, safeguard: Safeguard, provider: Provider | None
) -> Finding | None:
    try:
        return check(call)
    except HopyardError:
        raise
    except Exception as error:
        raise _broken(safeguard, provider, error) from error


def _broken(safeguard: Safeguard, provider: Provider | None, error: Exception) -> PluginError:
    return PluginError(
        f"the safeguard raised {type(error).__name__}: {error}",
        hint="report it to the plugin's authors, or disable the plugin",
        plugin=provider,
        stage=safeguard.name,
    )
