"""Sessions: one set of plugins and what can be done with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from operator import attrgetter
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar

from importlib_metadata import version

from hopyard_hookspecs import (
    Backend,
    CaptureRequest,
    Decompositions,
    Finding,
    Hazard,
    Hop,
    Mode,
    Pass,
    Policy,
    Safeguard,
    TraceRule,
)

from ._decompositions import merged
from ._entered_mode import EnteredMode, place_of
from .errors import CaptureError, HopyardError, PluginError, UnknownNameError, UsageError
from .pipeline import Pipeline
from .plugins import (
    KERNEL,
    PluginManager,
    PluginStatus,
    Registered,
    distribution_for,
    kernel,
    resolve,
)
from .policies import check_policies, hazards_of

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import GraphModule
    from torch.nn import Module

    from .hops import Operator
    from .pipeline import PipelineResult
    from .program import Manifest, Program
    from .tracing import DecompositionTable

T = TypeVar("T")


class Session:
    """One set of loaded plugins.

    Making a session finds, checks and loads plugins and asks each what it registers; it does not
    import torch. A session is not changed afterwards and may be used by several threads.

    Args:
        plugins: Plugins that need not be installed: modules or objects with hook implementations.
        discover: Whether to look for installed plugins.
        allow: Slugs of the only installed plugins to use.
        deny: Slugs of plugins not to use.
        strict: Whether a broken plugin is an error; if not, it is left out and reported by
            `session.plugins.infos`.
        policy: What becomes of safeguards' findings in all captures, by hazard code; see also
            :func:`hopyard.policies.read_policies`.

    Attributes:
        plugins: What became of each plugin.
        modes: Registered modes, by name.
        hops: Registered higher-order operators, by name.
        trace_rules: How to trace higher-order operators of others, by the operator's name.
        decompositions: Registered decomposition tables, by name.
        safeguards: Registered safeguards, by name.
        policy: What becomes of findings in all captures, by hazard code.
        passes: Registered passes, by name.
        backends: Registered backends, by name.

    Raises:
        PluginError: A plugin is broken, incompatible or in conflict with another.
        UnknownNameError: There is a policy for a code that no safeguard reports.
    """

    def __init__(
        self,
        *,
        plugins: Iterable[object] = (),
        discover: bool = True,
        allow: Iterable[str] | None = None,
        deny: Iterable[str] = (),
        strict: bool = True,
        policy: Mapping[str, Policy] | None = None,
    ) -> None:
        self.plugins = PluginManager(
            plugins=(kernel(), *plugins), discover=discover, allow=allow, deny=deny, strict=strict
        )
        self.modes = self._collect("mode", "hopyard_register_modes", "name", Mode)
        self.hops = self._collect("higher-order operator", "hopyard_register_hops", "name", Hop)
        self.trace_rules = self._collect(
            "trace rule", "hopyard_register_trace_rules", "operator", TraceRule
        )
        self.decompositions = self._collect(
            "decomposition table", "hopyard_register_decompositions", "name", Decompositions
        )
        self.safeguards = self._collect(
            "safeguard", "hopyard_register_safeguards", "name", Safeguard
        )
        self.passes = self._collect("pass", "hopyard_register_passes", "name", Pass)
        self.backends = self._collect("backend", "hopyard_register_backends", "name", Backend)
        self._drop_failed()
        self.policy = dict(policy or {})
        if self.policy:
            check_policies(self.policy, self.hazards)

    @property
    def hazards(self) -> dict[str, Hazard]:
        """What safeguards may find, by code.

        Raises:
            DuplicateNameError: Two safeguards mean different hazards by one code.
        """
        return hazards_of(self.safeguards.values())

    def capture(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        dynamic_shapes: Any = None,
        pre_dispatch: bool = False,
        decompositions: DecompositionTable | Iterable[str] | None = None,
        policy: Policy | Mapping[str, Policy] | None = None,
        modes: Iterable[str] = (),
        record_module_stack: bool = False,
    ) -> Program:
        """Capture a module or function as a program.

        The function runs once, on fake tensors: nothing is computed, and the module, its state and
        the inputs are as before afterwards, whether the capture succeeds or not. Shapes are those
        of the example inputs unless `dynamic_shapes` says otherwise, and Python numbers among them
        become part of the program. The grad mode is the caller's.

        Args:
            target: A module or function.
            args: Positional example inputs.
            kwargs: Keyword example inputs.
            dynamic_shapes: Which sizes may differ from call to call, as `torch.export` takes it,
                for example `{"x": {0: torch.export.Dim("batch")}}`.
            pre_dispatch: Whether the graph is taken above autograd: operators such as `linear` are
                kept whole, and so is what the program says of gradients and autocast. Such a
                program can be trained.
            decompositions: Operators to record as what they decompose into: names of tables of
                plugins, or a table, for example `torch.export.default_decompositions()`. Tables
                that are always used come on top; for an operator in both, a table given here
                counts.
            policy: What becomes of safeguards' findings in this capture: of all, or by hazard code,
                where it differs from the session's.
            modes: Names of modes to use besides those that are always used. What they report is in
                the program's `reports`.
            record_module_stack: Whether nodes tell in `meta["nn_module_stack"]` which modules they
                were made in, as `torch.export` has them; `hopyard.analysis` then knows the cost of
                each module. It makes a capture slower by about a tenth.

        Raises:
            CaptureError: The program cannot be captured, or a safeguard refused it.
            UnknownNameError: There is no such mode, hazard or decomposition table.
            DuplicateNameError: Two plugins' tables decompose one operator.
        """
        if not isinstance(args, tuple):
            raise UsageError(
                f"args is a {type(args).__name__} instead of a tuple",
                hint="write session.capture(module, (x,))",
                stage="capture",
            )
        request = CaptureRequest(
            target,
            args,
            dict(kwargs or {}),
            tracing_mode="fake" if dynamic_shapes is None else "symbolic",
            pre_dispatch=pre_dispatch,
            dynamic_shapes=dynamic_shapes,
        )
        self.plugins.notify("hopyard_before_capture", request=request)
        try:
            program = self._capture(
                request, modes, policy, decompositions, record_module_stack=record_module_stack
            )
        except BaseException as error:
            self._report_failure(request, error)
            raise
        self.plugins.notify(
            "hopyard_after_capture",
            request=request,
            graph_module=program.graph_module,
            error=None,
        )
        return program

    def pipeline(self, text: str | Pipeline) -> Pipeline:
        """Read pipeline text, for example `"decompose{table=core-aten},dce"`, and check it.

        A pipeline that is read already is only checked.

        Raises:
            PipelineSyntaxError: The text does not parse.
            UnknownNameError: There is no such pass.
            OptionError: A pass does not have such an option, or the option such a value.
            OrderError: A pass must run before or after another, and does not.
        """
        from .pipeline import resolve_steps

        pipeline = Pipeline.parse(text) if isinstance(text, str) else text
        self._check_names(pipeline)
        resolve_steps(pipeline, self.passes)
        return pipeline

    def run(
        self,
        pipeline: Pipeline | str,
        program: Program,
        *,
        observers: Iterable[object] = (),
    ) -> PipelineResult:
        """Run passes on a program and return the new program with a record of each pass.

        The given program is left as it is, also when a pass fails.

        Args:
            pipeline: The passes.
            program: What to transform.
            observers: Who is told of this run besides the session's plugins: objects with hooks
                such as `hopyard_after_pass`, for example :class:`hopyard.pipeline.GraphDumps`.

        Raises:
            UsageError: There is no such pass or option, or an option asks for what cannot be.
            PassError: A pass failed, or returned a graph that is not sound.
        """
        from .pipeline import run

        if isinstance(pipeline, str):
            pipeline = Pipeline.parse(pipeline)
        self._check_names(pipeline)
        return run(pipeline, program, self, observers)

    def load(self, path: str | PathLike[str], *, trust: bool = False) -> Program:
        """Read a program that :meth:`Program.save` wrote, without executing anything in the file.

        Args:
            path: A `.pt2` file.
            trust: Whether to accept native code: what backends compiled for partitions, which
                running the program runs, and what other tools left in the file, which is not run
                here. Pickles are refused regardless.

        Raises:
            ArtifactError: The file is missing, damaged, of another kind, or contains code.
            UnknownNameError: It needs a plugin that is not installed; the message says which.
        """
        from .program import load_program

        self._bind_hops()

        def restore(operator: str, graph_module: GraphModule, content: bytes) -> Module:
            registered = self.lookup("higher-order operator", operator, self.hops)
            if registered.value.restore is None:
                raise PluginError(
                    f"{operator} cannot make what the file holds for it",
                    hint=f"update {registered.provider.distribution}",
                    plugin=registered.provider,
                    stage="load",
                )
            made: Module = registered.value.restore(graph_module, content, self, trust)
            return made

        return load_program(path, self.hops, self._inactive, trust=trust, restore=restore)

    def from_exported_program(self, exported: ExportedProgram) -> Program:
        """Return a program of `torch.export` as a program of this session; tensors are shared.

        Raises:
            ProgramError: It has effect tokens.
        """
        from .program import from_exported_program

        return from_exported_program(exported, self.manifest())

    def hop(self, name: str) -> Operator:
        """Return the higher-order operator registered under `name`.

        Raises:
            UnknownNameError: No plugin registers it.
        """
        from .hops import bind

        return bind(self.lookup("higher-order operator", name, self.hops).value)

    def backend(self, name: str) -> Any:
        """Return the implementation of the backend registered under `name`.

        Raises:
            UnknownNameError: No plugin registers it.
            PluginLoadError: It cannot be imported.
        """
        registered = self.lookup("backend", name, self.backends)
        factory: Any = resolve(registered.value.implementation, registered.provider)
        return factory()

    def lookup(
        self, kind: str, name: str, registered: Mapping[str, Registered[Any]]
    ) -> Registered[Any]:
        """Return an entry of one of the session's mappings.

        Raises:
            UnknownNameError: There is none of that name; the message says what would provide it.
            DuplicateNameError: Two plugins claim the name and the session is not strict.
        """
        found = registered.get(name)
        if found is not None:
            return found
        conflict = self.plugins.conflict(kind, name)
        if conflict is not None:
            raise conflict
        distribution = distribution_for(kind, name)
        raise UnknownNameError(
            kind, name, registered, distribution=distribution, status=self._inactive(distribution)
        )

    def manifest(self) -> Manifest:
        """Return the versions that programs made by this session carry."""
        import torch

        from .program import Manifest

        active = [
            info.provider
            for info in self.plugins.infos
            if info.status is PluginStatus.ACTIVE and info.provider.plugin != KERNEL
        ]
        return Manifest(version("hopyard"), str(torch.__version__), tuple(active))

    def _inactive(self, distribution: str) -> str:
        """Return the status of its plugin if it is installed and takes no part, else ""."""
        theirs = [info for info in self.plugins.infos if info.provider.distribution == distribution]
        return next(
            (info.status.value for info in theirs if info.status is not PluginStatus.ACTIVE), ""
        )

    def _check_names(self, pipeline: Pipeline) -> None:
        for step in pipeline.passes:
            self.lookup("pass", step.name, self.passes)

    def _collect(self, kind: str, hook: str, key: str, of: type[T]) -> dict[str, Registered[T]]:
        return self.plugins.collect(kind, hook, attrgetter(key), of)

    def _drop_failed(self) -> None:
        """Leave out what a plugin registered before another of its hooks failed."""
        failed = {
            info.provider for info in self.plugins.infos if info.status is not PluginStatus.ACTIVE
        }
        tables: tuple[dict[str, Any], ...] = (
            self.modes,
            self.hops,
            self.trace_rules,
            self.decompositions,
            self.safeguards,
            self.passes,
            self.backends,
        )
        for table in tables:
            for name in [name for name, entry in table.items() if entry.provider in failed]:
                del table[name]

    def _capture(
        self,
        request: CaptureRequest,
        modes: Iterable[str],
        policy: Policy | Mapping[str, Policy] | None,
        decompositions: DecompositionTable | Iterable[str] | None,
        *,
        record_module_stack: bool,
    ) -> Program:
        from .program import CaptureOptions, capture
        from .safeguards import Observer, WatchList

        findings: list[Finding] = []
        watched = WatchList.of(self.safeguards.values())
        if isinstance(policy, Policy):
            policy = dict.fromkeys(watched.hazards, policy)
        observer = Observer(watched, {**self.policy, **(policy or {})}, findings)
        entered = self._modes(request, modes)
        options = CaptureOptions(
            manifest=self.manifest(),
            decompositions=self._decompositions(decompositions or ()),
            trace_rules={
                name: resolve(entry.value.rule, entry.provider)  # type: ignore[misc]
                for name, entry in self.trace_rules.items()
            },
            surroundings=tuple(partial(_itself, mode) for mode in entered),
            observer=observer,
            findings=findings,
            record_module_stack=record_module_stack,
        )
        try:
            program = capture(request, options)
        except CaptureError as error:
            if observer.refusal is None or observer.refusal is error:
                raise
            raise observer.refusal from error
        if observer.refusal is not None:
            raise observer.refusal
        for mode in entered:
            program.reports |= mode.reports(program.graph_module)
        return program

    def _modes(self, request: CaptureRequest, names: Iterable[str]) -> list[EnteredMode]:
        requested = {name: self.lookup("mode", name, self.modes) for name in names}
        default = {name: entry for name, entry in self.modes.items() if entry.value.default}
        chosen = {**default, **requested}
        in_order = sorted(chosen.values(), key=place_of)
        return [EnteredMode(entry, request) for entry in in_order]

    def _decompositions(self, asked: DecompositionTable | Iterable[str]) -> DecompositionTable:
        given = asked if isinstance(asked, Mapping) else {}
        names = () if isinstance(asked, Mapping) else asked
        kind = "decomposition table"
        requested = {name: self.lookup(kind, name, self.decompositions) for name in names}
        tables = self.decompositions.items()
        default = {name: entry for name, entry in tables if entry.value.default}
        return {**merged({**default, **requested}.values()), **given}

    def _report_failure(self, request: CaptureRequest, error: BaseException) -> None:
        try:
            self.plugins.notify(
                "hopyard_after_capture", request=request, graph_module=None, error=error
            )
        except HopyardError as another:
            error.add_note(f"and then an observer failed: {another}")

    def _bind_hops(self) -> None:
        from .hops import bind

        for entry in self.hops.values():
            bind(entry.value)


def load(path: str | PathLike[str], *, trust: bool = False) -> Program:
    """Read a program with the plugins that are installed; see :meth:`Session.load`."""
    return Session().load(path, trust=trust)


def _itself(mode: EnteredMode) -> EnteredMode:
    return mode
