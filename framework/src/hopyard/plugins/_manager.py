"""Loads plugins, keeps what became of each, and calls their hooks one plugin at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Generic, TypeVar

import pluggy

from hopyard.errors import (
    DuplicateNameError,
    PluginError,
    PluginLoadError,
    UnknownNameError,
    UsageError,
)
from hopyard_hookspecs import Provider

from ._catalogue import distribution_for
from ._classify import PluginStatus, classify, select
from ._describe import ISOLATED, advice, describe
from ._find import Candidate, find
from ._given import GivenPlugin
from ._hooks import Hooks
from ._load import installed_hookspecs, load

T = TypeVar("T")
E = TypeVar("E", bound=PluginError)


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """What is known of a plugin.

    Attributes:
        provider: Its slug, distribution and version.
        status: Whether it takes part, and if not, why.
        entry_point: What was or would be imported; "" for a plugin that the program gave itself.
        requirement: The versions of hopyard-hookspecs it accepts; "" means any.
        error: What went wrong. An active plugin has one if another plugin claims a name that it
            registers.
        hooks: The hooks it implements, sorted.
    """

    provider: Provider
    status: PluginStatus
    entry_point: str = ""
    requirement: str = ""
    error: PluginError | None = None
    hooks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Registered(Generic[T]):
    """A value that a plugin registered, with the plugin."""

    value: T
    provider: Provider


class PluginManager:
    """The plugins of one session.

    A plugin that is at fault never takes part. It is at fault if its metadata cannot be read, its
    import fails or exits, it needs another version of hopyard-hookspecs, it marks as a hook what is
    none, it has a function named like a hook without the mark, or it shares its slug with another.
    Nothing is shared between managers; one manager may be used by several threads.

    Args:
        discover: Whether to look for the plugins of installed distributions. Without it the
            environment's lists are not read either.
        allow: The discovered plugins that may take part; None means all. Plugins given by the
            program need no permission.
        deny: The plugins that may not, given ones included. It wins over `allow`. The environment
            variables `HOPYARD_PLUGINS_ALLOW` and `HOPYARD_PLUGINS_DENY` hold slugs separated by
            commas and restrict further.
        strict: Whether a plugin at fault makes construction, :meth:`register` or :meth:`collect`
            raise. If not, everything else works and the plugin's info holds the reason.
        plugins: Plugins that the program gives: objects with hooks, or :class:`GivenPlugin` where
            the name or distribution shall not be derived. They are registered before discovery, and
            a discovered plugin that has the slug of one of them is at fault alone.

    Raises:
        UnknownNameError: A list names a plugin that is neither given nor installed.
        PluginLoadError: The first plugin at fault, in strict mode.
        IncompatibleError: The same, if it needs another version of hopyard-hookspecs.
        DuplicateNameError: The same, if two plugins have one slug; also for two given plugins with
            one slug, strict or not.
    """

    def __init__(
        self,
        *,
        discover: bool = True,
        allow: Iterable[str] | None = None,
        deny: Iterable[str] = (),
        strict: bool = True,
        plugins: Iterable[object] = (),
    ) -> None:
        self._strict = strict
        self._lock = threading.RLock()
        self._hooks = Hooks()
        self._infos: dict[str, PluginInfo] = {}
        self._refused: list[PluginInfo] = []
        self._conflicts: dict[tuple[str, str], DuplicateNameError] = {}
        given = [_given(plugin) for plugin in plugins]
        candidates = find() if discover else ()
        known = {each.provider.plugin for each in given} | {each.slug for each in candidates}
        self._selection = select(allow, deny, os.environ if discover else {}, known)
        for plugin in given:
            self._register(plugin)
        self._discover(candidates)

    @property
    def infos(self) -> tuple[PluginInfo, ...]:
        """What is known of each plugin, sorted by slug; of two that share a slug, both."""
        with self._lock:
            infos = [*self._infos.values(), *self._refused]
        return tuple(sorted(infos, key=_place))

    def info(self, slug: str) -> PluginInfo:
        """Return what is known of one plugin.

        Raises:
            UnknownNameError: There is no such plugin.
        """
        for info in (*self._infos.values(), *self._refused):
            if info.provider.plugin == slug:
                return info
        known = {info.provider.plugin for info in self.infos}
        distribution = distribution_for("plugin", slug)
        raise UnknownNameError("plugin", slug, known, distribution=distribution)

    def conflict(self, kind: str, name: str) -> DuplicateNameError | None:
        """Return why a name that plugins did register was left out, if it was.

        Only a manager that is not strict leaves names out.
        """
        return self._conflicts.get((kind, name))

    def register(
        self, plugin: object, slug: str, *, distribution: str = "", version: str = ""
    ) -> PluginInfo:
        """Add a plugin without discovery and return what became of it.

        Args:
            plugin: A module, or an instance of a class, with hook implementations.
            slug: The plugin's name.
            distribution: Who provides it; by default the distribution named as the plugin's
                top-level package, and `"unpackaged"` if there is none.
            version: The distribution's version; by default the installed one.

        Raises:
            DuplicateNameError: There is a plugin with that slug, strict or not.
            PluginLoadError: The plugin is at fault and the manager is strict.
        """
        return self._register(GivenPlugin(plugin, slug, distribution, version))

    def collect(
        self, kind: str, hook: str, key: Callable[[T], str], of: type[T]
    ) -> dict[str, Registered[T]]:
        """Call a registration hook once per active plugin, by slug, and return the values by name.

        A plugin whose implementation raises, even after yielding, or yields anything but `of`, or
        one name twice, is at fault: in strict mode that is raised, else the plugin fails, nothing
        of it is returned, and its hooks are never called again. What an *earlier* call returned of
        it is the caller's: look at :meth:`info` after the last call.

        A name that two plugins claim belongs to neither. In strict mode that is raised; else the
        name is left out, :meth:`conflict` tells why, the infos of both carry the error, and both
        stay active with all that is theirs alone.

        Args:
            kind: What the hook registers, in the words of messages, for example `"pass"`.
            hook: The hook's name.
            key: Returns the name of a value.
            of: The class of the values.

        Raises:
            PluginLoadError: A plugin is at fault and the manager is strict.
            DuplicateNameError: Two plugins claim one name and the manager is strict.
            UnknownNameError: There is no such hook.
        """
        claims: dict[str, list[Registered[T]]] = {}
        for info, implementations in self._by_plugin(hook):
            try:
                values = _registered(kind, hook, key, of, info.provider, implementations)
            except PluginLoadError as error:
                self._fail(info, error)
                continue
            for name, value in values.items():
                claims.setdefault(name, []).append(Registered(value, info.provider))
        for name, claimants in claims.items():
            if len(claimants) > 1:
                self._dispute(kind, hook, name, [each.provider for each in claimants])
        return {name: each[0] for name, each in claims.items() if len(each) == 1}

    def notify(self, hook: str, **arguments: Any) -> None:
        """Call an observer hook of every active plugin, passing each the arguments it takes.

        Every observer is called, also after one raised, so that those which saw a beginning see the
        end. The first failure is raised then, with the others as notes.

        Raises:
            PluginError: An observer raised.
            UnknownNameError: There is no such hook.
            UsageError: `arguments` are not the hook's.
        """
        valid = self._hooks.arguments(hook)
        if set(arguments) != set(valid):
            raise UsageError(f"{hook} takes {sorted(valid)}, not {sorted(arguments)}", stage=hook)
        failures: list[PluginError] = []
        for implementation, provider in self._by_turn(hook):
            try:
                _observe(implementation, arguments)
            except ISOLATED as cause:
                failures.append(_failed(provider, hook, cause, PluginError))
        if not failures:
            return
        for other in failures[1:]:
            failures[0].add_note(str(other))
        raise failures[0]

    def _register(self, given: GivenPlugin) -> PluginInfo:
        provider = given.provider
        with self._lock:
            present = self._infos.get(provider.plugin)
            if present is not None:
                raise _namesakes([present.provider, provider])
            if provider.plugin in self._selection.denied:
                return self._keep(PluginInfo(provider, PluginStatus.DISABLED))
            return self._add(given.plugin, PluginInfo(provider, PluginStatus.ACTIVE))

    def _discover(self, candidates: tuple[Candidate, ...]) -> None:
        for slug, group in groupby(candidates, key=lambda candidate: candidate.slug):
            announced = list(group)
            if not self._selection.admits(slug):
                self._refused += [_info(each, PluginStatus.DISABLED) for each in announced]
            elif slug in self._infos or len(announced) > 1:
                self._refuse_namesakes(slug, announced)
            else:
                self._load(announced[0])

    def _refuse_namesakes(self, slug: str, announced: list[Candidate]) -> None:
        given = [self._infos[slug].provider] if slug in self._infos else []
        error = _namesakes(given + [each.provider for each in announced])
        if self._strict:
            raise error
        self._refused += [_info(each, classify(error), error) for each in announced]

    def _load(self, candidate: Candidate) -> None:
        loaded = load(candidate, installed_hookspecs())
        info = _info(candidate, PluginStatus.ACTIVE)
        if loaded.error is not None:
            self._fail(info, loaded.error)
        else:
            self._add(loaded.plugin, info)

    def _add(self, plugin: object, info: PluginInfo) -> PluginInfo:
        try:
            hooks = self._hooks.add(plugin, info.provider)
        except PluginLoadError as error:
            return self._fail(info, error)
        return self._keep(replace(info, hooks=hooks))

    def _fail(self, info: PluginInfo, error: PluginError) -> PluginInfo:
        if self._strict:
            raise error
        with self._lock:
            self._hooks.remove(info.provider)
            return self._keep(replace(info, status=classify(error), error=error))

    def _keep(self, info: PluginInfo) -> PluginInfo:
        self._infos[info.provider.plugin] = info
        return info

    def _by_plugin(self, hook: str) -> list[tuple[PluginInfo, list[pluggy.HookImpl]]]:
        with self._lock:
            by_slug = sorted(self._hooks.implementations(hook), key=_slug)
            return [(self._infos[slug], list(each)) for slug, each in groupby(by_slug, key=_slug)]

    def _by_turn(self, hook: str) -> list[tuple[pluggy.HookImpl, Provider]]:
        with self._lock:
            implementations = self._hooks.implementations(hook)
            return [(each, self._infos[each.plugin_name].provider) for each in implementations]

    def _dispute(self, kind: str, hook: str, name: str, claimants: list[Provider]) -> None:
        error = DuplicateNameError(kind, name, claimants)
        error.stage = hook
        if self._strict:
            raise error
        with self._lock:
            self._conflicts[kind, name] = error
            for claimant in claimants:
                info = self._infos[claimant.plugin]
                self._keep(replace(info, error=info.error or error))


def _given(plugin: object) -> GivenPlugin:
    return plugin if isinstance(plugin, GivenPlugin) else GivenPlugin(plugin)


def _info(
    candidate: Candidate, status: PluginStatus, error: PluginError | None = None
) -> PluginInfo:
    requirement = str(candidate.requirement)
    return PluginInfo(candidate.provider, status, candidate.entry_point, requirement, error)


def _place(info: PluginInfo) -> tuple[str, str]:
    return info.provider.plugin, info.provider.distribution


def _slug(implementation: pluggy.HookImpl) -> str:
    return implementation.plugin_name


def _namesakes(claimants: list[Provider]) -> DuplicateNameError:
    error = DuplicateNameError("plugin", claimants[0].plugin, claimants)
    error.hint = "uninstall one of them"
    error.stage = "load"
    return error


def _registered(
    kind: str,
    hook: str,
    key: Callable[[T], str],
    of: type[T],
    provider: Provider,
    implementations: list[pluggy.HookImpl],
) -> dict[str, T]:
    """Return all that one plugin registers through a hook, by name."""
    values: dict[str, T] = {}
    for implementation in implementations:
        try:
            returned: object = implementation.function()
            yielded = list(returned) if isinstance(returned, Iterable) else None
        except ISOLATED as cause:
            raise _failed(provider, hook, cause, PluginLoadError) from cause
        if yielded is None:
            raise _wrong(provider, hook, f"returns {_article(returned)}, not an iterable of {kind}")
        for value in yielded:
            if not isinstance(value, of):
                message = f"yields {_article(value)} instead of a {of.__name__}"
                raise _wrong(provider, hook, message)
            name = key(value)
            if name in values:
                raise _wrong(provider, hook, f"yields the {kind} {name!r} twice")
            values[name] = value
    return values


def _observe(implementation: pluggy.HookImpl, arguments: dict[str, Any]) -> None:
    """Call one observer; parameters with a default are filled too if the hook has them."""
    positional = [arguments[name] for name in implementation.argnames]
    optional = {name: arguments[name] for name in implementation.kwargnames if name in arguments}
    implementation.function(*positional, **optional)


def _failed(provider: Provider, hook: str, cause: BaseException, error: type[E]) -> E:
    failure = error(
        f"{hook} raised {describe(cause)}", hint=advice(provider), plugin=provider, stage=hook
    )
    failure.__cause__ = cause
    return failure


def _wrong(provider: Provider, hook: str, message: str) -> PluginLoadError:
    return PluginLoadError(f"{hook} {message}", hint=advice(provider), plugin=provider, stage=hook)


def _article(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
