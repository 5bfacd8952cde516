"""Options of passes: which there are, and whether a value fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from hopyard.errors import OptionError, PassError, PluginError, closest_match
from hopyard_hookspecs import Provider

from ._text import Value, write_value

_SCALARS = (bool, int, float, str, NoneType)

_WORDED: Mapping[Any, str] = {bool: "true or false", str: "text", NoneType: "none"}

Implementation: TypeAlias = Callable[..., Any]
"""A dataclass, another class without options, or a function."""


class _Misfit(Exception):
    """A value is not of an option's type."""


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a pass.

    Attributes:
        name: Its name.
        type: Its Python type.
        required: Whether it must be given.
        default: Its value if it is not given; None if it must be.
    """

    name: str
    type: Any
    required: bool
    default: Any = None

    @property
    def type_name(self) -> str:
        """The type as people write it, for example `"int or none"`."""
        return _type_name(self.type)

    def __str__(self) -> str:
        said = "required" if self.required else f"default {write_value(self.default)}"
        return f"{self.name}: {self.type_name}, {said}"


def options_of(
    implementation: Implementation, name: str = "", provider: Provider | None = None
) -> tuple[Option, ...]:
    """Return the options of a pass: the fields that its dataclass is constructed with.

    Args:
        implementation: What the pass was registered with, resolved.
        name: The name of the pass, for errors.
        provider: Who registered it, for errors.

    Raises:
        PluginError: A field is of a type that text cannot give.
    """
    if not _is_dataclass(implementation):
        return ()
    try:
        hints = get_type_hints(implementation)
    except (NameError, TypeError) as cause:
        raise PluginError(
            f"the types of the options of pass {name!r} cannot be read: {cause}",
            hint="import at run time what the annotations of its fields use",
            plugin=provider,
            stage=name,
        ) from cause
    declared: Any = implementation
    fields = dataclasses.fields(declared)
    options = tuple(_option(field, hints[field.name]) for field in fields if field.init)
    for option in options:
        if not is_option_type(option.type):
            raise PluginError(
                f"option {option.name!r} of pass {name!r} is of type {option.type_name}, "
                "which text cannot give",
                hint="use bool, int, float, str, Literal, tuple[X, ...] or X | None, "
                "or declare the field with init=False",
                plugin=provider,
                stage=name,
            )
    return options


def construct(
    implementation: Implementation,
    given: Mapping[str, Value],
    name: str,
    provider: Provider | None,
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return the pass with its options set, and all of the options, defaults included.

    Raises:
        OptionError: The pass has no such option, misses one, or does not take a value.
        PluginError: The pass declares options that text cannot give.
        PassError: Constructing the pass raised.
    """
    schema = {option.name: option for option in options_of(implementation, name, provider)}
    for option_name in given:
        if option_name not in schema:
            raise _unknown(option_name, schema, name, provider)
    values = {}
    for option in schema.values():
        if option.name in given:
            values[option.name] = _fitting(option, given[option.name], name, provider)
        elif option.required:
            raise OptionError(
                f"pass {name!r} needs option {option.name!r}, of type {option.type_name}",
                hint=f"write {name}{{{option.name}=…}}",
                plugin=provider,
                stage=name,
            )
    if not isinstance(implementation, type):
        return implementation, {}
    try:
        instance = implementation(**values)
    except ValueError as cause:
        raise OptionError(
            f"pass {name!r} does not take these options: {cause}", plugin=provider, stage=name
        ) from cause
    except Exception as cause:
        raise PassError(
            f"constructing pass {name!r} raised {type(cause).__name__}: {cause}",
            plugin=provider,
            stage=name,
        ) from cause
    return instance, {option: getattr(instance, option) for option in schema}


def _coerce(value: Value, wanted: Any) -> Any:
    """Return `value` as the type `wanted`: only an integer may become something else, a float."""
    origin = get_origin(wanted)
    if origin in (Union, UnionType):
        return _coerce_to_any(value, get_args(wanted))
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in get_args(wanted)):
            return value
    elif origin is tuple:
        if isinstance(value, tuple):
            return tuple(_coerce(item, get_args(wanted)[0]) for item in value)
    elif wanted is float and type(value) is int:
        return _as_float(value)
    elif type(value) is wanted:
        return value
    raise _Misfit


def _coerce_to_any(value: Value, types: tuple[Any, ...]) -> Any:
    """Prefer a type that takes the value as it is to one that converts it."""
    fitting = []
    for wanted in types:
        try:
            fitting.append(_coerce(value, wanted))
        except _Misfit:
            continue
    if not fitting:
        raise _Misfit
    return next((found for found in fitting if type(found) is type(value)), fitting[0])


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError as cause:
        raise _Misfit from cause


def _fitting(option: Option, value: Value, name: str, provider: Provider | None) -> Any:
    try:
        return _coerce(value, option.type)
    except _Misfit:
        raise OptionError(
            f"option {option.name!r} of pass {name!r} takes {option.type_name}, "
            f"not {write_value(value)}",
            hint=_probably_meant(option, value),
            plugin=provider,
            stage=name,
        ) from None


def _probably_meant(option: Option, value: Value) -> str:
    if isinstance(value, str):
        closest = closest_match(value, _words(option.type))
        return f"did you mean {write_value(closest)}?" if closest else ""
    if isinstance(value, (bool, int, float)) and _takes_text(option.type):
        return f'write {option.name}="{write_value(value)}" if text is meant'
    return ""


def _unknown(
    option: str, schema: Mapping[str, Option], name: str, provider: Provider | None
) -> OptionError:
    if not schema:
        hint = "it has no options"
    else:
        closest = closest_match(option, schema)
        guess = f"did you mean {closest!r}? " if closest else ""
        hint = f"{guess}valid options: {'; '.join(map(str, schema.values()))}"
    return OptionError(
        f"pass {name!r} has no option {option!r}", hint=hint, plugin=provider, stage=name
    )


def _is_dataclass(implementation: Implementation) -> bool:
    return isinstance(implementation, type) and dataclasses.is_dataclass(implementation)


def _option(field: dataclasses.Field[Any], wanted: Any) -> Option:
    if field.default_factory is not dataclasses.MISSING:
        return Option(field.name, wanted, required=False, default=field.default_factory())
    if field.default is not dataclasses.MISSING:
        return Option(field.name, wanted, required=False, default=field.default)
    return Option(field.name, wanted, required=True)


def is_option_type(wanted: Any) -> bool:
    """Say whether text can give values of a type."""
    origin, args = get_origin(wanted), get_args(wanted)
    if origin in (Union, UnionType):
        return all(map(is_option_type, args))
    if origin is Literal:
        return all(type(choice) in _SCALARS for choice in args)
    if origin is tuple:
        return len(args) == 2 and args[1] is ... and _is_scalar(args[0])
    return wanted in _SCALARS


def _is_scalar(wanted: Any) -> bool:
    """Say whether a type is supported and has no lists in it: text has no lists of lists."""
    if get_origin(wanted) in (Union, UnionType):
        return all(map(_is_scalar, get_args(wanted)))
    return is_option_type(wanted) and get_origin(wanted) is not tuple


def _takes_text(wanted: Any) -> bool:
    members = get_args(wanted) if get_origin(wanted) in (Union, UnionType) else (wanted,)
    return str in members


def _words(wanted: Any) -> list[str]:
    """Return the words that a type lists."""
    if get_origin(wanted) is Literal:
        return [choice for choice in get_args(wanted) if isinstance(choice, str)]
    return [word for member in get_args(wanted) for word in _words(member)]


def _type_name(wanted: Any) -> str:
    origin, args = get_origin(wanted), get_args(wanted)
    if origin in (Union, UnionType):
        return " or ".join(map(_type_name, args))
    if origin is Literal:
        return " or ".join(map(write_value, args))
    if origin is tuple and is_option_type(wanted):
        return f"a list of {_type_name(args[0])}"
    if wanted in _WORDED:
        return _WORDED[wanted]
    return wanted.__name__ if isinstance(wanted, type) and origin is None else str(wanted)
