"""The hooks there are and the implementations that plugins bring, checked plugin by plugin."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection
from types import FunctionType

import pluggy

from hopyard.errors import PluginLoadError, UnknownNameError, closest_match
from hopyard_hookspecs import PROJECT, Provider, specifications

from ._describe import advice, describe

REGISTRATION_PREFIX = "hopyard_register_"

_HOOK_LIKE = re.compile(r"hopyard_(register|before|after)_\w+")


class Hooks:
    """Every specified hook with the implementations of the plugins added so far.

    pluggy judges whether an implementation fits its hook. The manager calls them itself, since
    pluggy would not say which plugin raised.
    """

    def __init__(self) -> None:
        self._pluggy = pluggy.PluginManager(PROJECT)
        for module in specifications():
            self._pluggy.add_hookspecs(module)
        self._arguments: dict[str, tuple[str, ...]] = {
            name: caller.spec.argnames
            for name, caller in vars(self._pluggy.hook).items()
            if isinstance(caller, pluggy.HookCaller) and caller.spec is not None
        }

    def arguments(self, hook: str) -> tuple[str, ...]:
        """Return the names of a hook's arguments.

        Raises:
            UnknownNameError: There is no such hook.
        """
        if hook not in self._arguments:
            raise UnknownNameError("hook", hook, self._arguments)
        return self._arguments[hook]

    def implementations(self, hook: str) -> list[pluggy.HookImpl]:
        """Return a hook's implementations, those marked `tryfirst` first, else sorted by slug.

        Raises:
            UnknownNameError: There is no such hook.
        """
        self.arguments(hook)
        caller: pluggy.HookCaller = getattr(self._pluggy.hook, hook)
        return sorted(caller.get_hookimpls(), key=_turn)

    def add(self, plugin: object, provider: Provider) -> tuple[str, ...]:
        """Take in a plugin and return the hooks it implements, sorted; one at fault is left out.

        Raises:
            PluginLoadError: An implementation belongs to no hook, could never be called rightly, or
                lacks its marker; or the plugin is there already.
        """
        self._refuse_unusable(plugin, provider)
        marked = self._marked(plugin, provider)
        try:
            self._pluggy.register(plugin, name=provider.plugin)
            self._pluggy.check_pending()
        except pluggy.PluginValidationError as cause:
            self.remove(provider)
            raise self._explain(marked, provider, cause) from cause
        try:
            for hook, implementation in marked:
                _refuse_uncallable(hook, implementation, provider)
            _refuse_unmarked(plugin, provider)
        except PluginLoadError:
            self.remove(provider)
            raise
        return tuple(sorted({hook for hook, _ in marked if hook in self._arguments}))

    def remove(self, provider: Provider) -> None:
        """Forget a plugin, if it is there."""
        if self._pluggy.has_plugin(provider.plugin):
            self._pluggy.unregister(name=provider.plugin)

    def _refuse_unusable(self, plugin: object, provider: Provider) -> None:
        if plugin is None:
            raise _broken(provider, "is None instead of a module or an object with hooks")
        try:
            present = self._pluggy.get_name(plugin)
        except Exception as cause:
            message = f"comparing it with the other plugins raised {describe(cause)}"
            raise _broken(provider, message) from cause
        if present is not None:
            raise _broken(provider, f"is the same object as the plugin {present!r}, or equal to it")

    def _marked(self, plugin: object, provider: Provider) -> list[tuple[str, pluggy.HookImpl]]:
        """Return what the plugin marks as implementations, of hooks that exist or not."""
        unspecified = pluggy.PluginManager(PROJECT)
        try:
            unspecified.register(plugin, name=provider.plugin)
        except Exception as cause:
            raise _broken(provider, f"looking for its hooks raised {describe(cause)}") from cause
        return [
            (caller.name, implementation)
            for caller in unspecified.get_hookcallers(plugin) or ()
            for implementation in caller.get_hookimpls()
        ]

    def _explain(
        self,
        marked: list[tuple[str, pluggy.HookImpl]],
        provider: Provider,
        cause: pluggy.PluginValidationError,
    ) -> PluginLoadError:
        """Say what pluggy found wrong, and what would have been right."""
        for hook, implementation in marked:
            if hook not in self._arguments and not implementation.optionalhook:
                message = f"implements {hook!r}, which is no hook"
                return _misspelt(provider, hook, message, hook, self._arguments)
            valid = self._arguments.get(hook, ())
            for argument in implementation.argnames:
                if hook in self._arguments and argument not in valid:
                    message = f"{hook} has no argument {argument!r}"
                    return _misspelt(provider, hook, message, argument, valid)
        return _broken(provider, str(cause))


def _turn(implementation: pluggy.HookImpl) -> tuple[int, str]:
    return implementation.trylast - implementation.tryfirst, implementation.plugin_name


def _refuse_uncallable(hook: str, implementation: pluggy.HookImpl, provider: Provider) -> None:
    """Refuse what pluggy accepts and nothing would ever run."""
    function = implementation.function
    if implementation.wrapper or implementation.hookwrapper:
        raise _broken(provider, f"{hook} is implemented as a wrapper, which Hopyard does not call")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise _broken(provider, f"{hook} is implemented by an async function, which is not awaited")
    if not hook.startswith(REGISTRATION_PREFIX) and inspect.isgeneratorfunction(function):
        raise _broken(provider, f"{hook} is implemented by a generator, which would never run")
    if inspect.isclass(implementation.plugin) and _is_method(implementation.plugin, function):
        raise _broken(provider, f"{hook} is a method of a class; an instance must be the plugin")
    needed = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and parameter.default is parameter.empty
    ]
    if needed:
        raise _broken(provider, f"{hook} takes {', '.join(needed)} by keyword only")


def _is_method(owner: type, function: object) -> bool:
    """Say whether `function` is an ordinary method of the class, which needs an instance."""
    name = getattr(function, "__name__", "")
    return isinstance(inspect.getattr_static(owner, name, None), FunctionType)


def _refuse_unmarked(plugin: object, provider: Provider) -> None:
    """Refuse functions named like hooks that lack the marker, since pluggy would pass them over."""
    for name in filter(_HOOK_LIKE.fullmatch, dir(plugin)):
        found = inspect.getattr_static(plugin, name, None)
        function = getattr(found, "__func__", found)
        if not isinstance(function, FunctionType) or hasattr(function, f"{PROJECT}_spec"):
            continue
        if not (hasattr(function, f"{PROJECT}_impl") or hasattr(found, f"{PROJECT}_impl")):
            raise PluginLoadError(
                f"{name} is named like a hook and is not marked as one",
                hint="decorate it with hopyard_hookspecs.hookimpl, or give it another name",
                plugin=provider,
                stage=name,
            )


def _broken(provider: Provider, message: str) -> PluginLoadError:
    return PluginLoadError(message, hint=advice(provider), plugin=provider, stage="load")


def _misspelt(
    provider: Provider, hook: str, message: str, name: str, valid: Collection[str]
) -> PluginLoadError:
    closest = closest_match(name, valid)
    suggestion = f"did you mean {closest!r}? " if closest else ""
    known = ", ".join(sorted(valid)) or "none"
    return PluginLoadError(
        message, hint=f"{suggestion}valid names: {known}", plugin=provider, stage=hook
    )
