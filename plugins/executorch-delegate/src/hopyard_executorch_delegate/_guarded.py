"""A backend whose failures and lies are reported as its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.fx import GraphModule, Node

from hopyard import Session
from hopyard.errors import OptionError, closest_match
from hopyard_hookspecs import Backend, Lowered, Provider, Support

from ._errors import DelegationError
from ._types import all_accept, described, input_types, output_types

_FIELDS = ("backend_id", "processed_bytes", "compile_specs", "named_data", "meta")


@dataclass(frozen=True, slots=True)
class GuardedBackend:
    """A backend of a session.

    Attributes:
        declared: What its plugin says of it.
        provider: The plugin.
        implementation: What does the work.
        options: What partitions are lowered with.
    """

    declared: Backend
    provider: Provider
    implementation: Any
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, session: Session, name: str, options: Mapping[str, Any]) -> GuardedBackend:
        """Return the backend registered under `name`.

        Raises:
            UnknownNameError: There is none.
            OptionError: It does not take one of the options.
            DelegationError: It cannot be made, or lacks a method that every backend has.
        """
        registered = session.lookup("backend", name, session.backends)
        declared, provider = registered.value, registered.provider
        unknown = [each for each in options if each not in declared.options]
        if unknown:
            raise OptionError(
                f"the backend {name!r} has no options, but was given {', '.join(unknown)}"
                if not declared.options
                else f"the backend {name!r} has no option {unknown[0]!r}",
                hint=_probably_meant(unknown[0], declared.options),
                plugin=provider,
                stage="lower",
            )
        try:
            implementation = session.backend(name)
        except Exception as error:
            if type(error).__module__ == "hopyard.errors":
                raise
            raise DelegationError(
                f"the backend {name!r} raised {type(error).__name__} when it was made: {error}",
                backend=name,
                plugin=provider,
            ) from error
        guarded = cls(declared, provider, implementation, dict(options))
        missing = [each for each in ("supports", "lower") if not hasattr(implementation, each)]
        if missing:
            raise guarded.failed(f"has no {' and no '.join(missing)}")
        return guarded

    @property
    def name(self) -> str:
        """Its name."""
        return self.declared.name

    def made_by(self) -> str:
        """Return what its bytes depend on besides the partition and the options."""
        fingerprint = getattr(self.implementation, "fingerprint", None)
        try:
            more = fingerprint() if fingerprint is not None else ""
        except Exception as error:
            raise self.failed(
                f"raised {type(error).__name__} when asked for its fingerprint: {error}"
            ) from error
        return f"{self.provider.distribution} {self.provider.version} {more}"

    def supports(self, node: Node) -> Support:
        """Ask whether the backend takes a node.

        Raises:
            DelegationError: It raises, or answers something else than a :class:`Support`.
        """
        try:
            answer: Any = self.implementation.supports(node)
        except Exception as error:
            raise self.failed(
                f"raised {type(error).__name__} when asked about {node.name}: {error}"
            ) from error
        if isinstance(answer, tuple) and list(map(type, answer)) == [bool, str]:
            return Support(*answer)
        raise self.failed(
            f"answered {_brief(answer)} when asked about {node.name}",
            hint="return hopyard_hookspecs.Support(supported, reason)",
        )

    def lower(self, partition: GraphModule, index: int, where: str) -> Lowered:
        """Let the backend lower a partition.

        Args:
            partition: The partition.
            index: Its number.
            where: How errors call it.

        Raises:
            DelegationError: It raises, or returns something else than the lowered partition.
        """
        expected = input_types(partition), output_types(partition)
        try:
            lowered: Any = self.implementation.lower(partition, dict(self.options))
        except Exception as error:
            raise self.failed(
                f"raised {type(error).__name__} when lowering {where}: {error}", index
            ) from error
        wrong = self._wrong_form(lowered) or _wrong_types(lowered, *expected)
        if wrong:
            raise self.failed(f"lowered {where} to {wrong}", index)
        if isinstance(lowered, Lowered):
            return lowered
        parts = {name: getattr(lowered, name) for name in _FIELDS}
        return Lowered(lowered.original_module, **parts, baked=getattr(lowered, "baked", ()))

    def failed(self, problem: str, partition: int | None = None, hint: str = "") -> DelegationError:
        """Return the error that names the backend."""
        return DelegationError(
            f"the backend {self.name!r} {problem}",
            backend=self.name,
            partition=partition,
            plugin=self.provider,
            hint=hint,
        )

    def _wrong_form(self, lowered: Any) -> str:
        """Say in what way a lowered partition is none, or return ""."""
        missing = [name for name in ("original_module", *_FIELDS) if not hasattr(lowered, name)]
        if missing:
            return f"a {type(lowered).__name__} instead of a Lowered"
        if lowered.backend_id != self.name:
            return f"something of the backend {lowered.backend_id!r}"
        if not isinstance(lowered.processed_bytes, bytes):
            return f"a {type(lowered.processed_bytes).__name__} instead of bytes"
        if not isinstance(lowered.original_module, GraphModule):
            return "something without a reference graph"
        named = lowered.named_data
        if not isinstance(named, Mapping) or not all(
            type(blob) is bytes for blob in named.values()
        ):
            return "something whose named data are no bytes"
        for name in ("compile_specs", "meta"):
            if not isinstance(getattr(lowered, name), Mapping):
                return f"something whose {name} are no mapping"
        return ""


def _probably_meant(option: str, valid: Sequence[str]) -> str:
    closest = closest_match(option, valid)
    advice = f"did you mean {closest!r}? " if closest else ""
    return f"{advice}valid names: {', '.join(valid)}" if valid else ""


def _wrong_types(lowered: Lowered, inputs: Any, outputs: Any) -> str:
    """Say in what way the reference graph is not the partition's, or return ""."""
    graph_module = lowered.original_module
    taken, returned = input_types(graph_module), output_types(graph_module)
    if not all_accept(inputs, taken):
        return f"a graph that takes {described(taken)} instead of {described(inputs)}"
    if not all_accept(outputs, returned):
        return f"a graph that returns {described(returned)} instead of {described(outputs)}"
    return ""


def _brief(answer: Any) -> str:
    return f"a {type(answer).__name__}"
