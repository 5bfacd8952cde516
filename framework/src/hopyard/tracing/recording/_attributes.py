"""What `get_attr` nodes read: tensors and modules that a graph uses without being given them."""

from __future__ import annotations

from torch import Tensor
from torch.nn import Module, Parameter


class Attributes:
    """The attributes of the module that will own a graph, found by identity.

    Names are those that torch's tracer gives. Each attribute and each attached module is looked at
    once, however many times one is asked for.

    Args:
        root: The module. What it has already is read from there.
        counts: How far the numbers of each base name have come. A capture shares them with those
            of the bodies inside it.
    """

    def __init__(self, root: Module, counts: dict[str, int] | None = None) -> None:
        self._root = root
        self.counts = {} if counts is None else counts
        self._tensors: dict[int, tuple[Tensor, str]] = {}
        self._modules: dict[int, tuple[Module, str]] = {}
        self._noted: set[str] = set()
        for name, tensor in (*root.named_parameters(), *root.named_buffers()):
            self._tensors.setdefault(id(tensor), (tensor, name))

    def tensor(self, tensor: Tensor) -> str:
        """Return the name of a tensor; it becomes an attribute if it is none yet."""
        known = self._tensors.get(id(tensor))
        if known is not None:
            return known[1]
        base = "_param_constant" if isinstance(tensor, Parameter) else "_tensor_constant"
        name = self.fresh_name(base)
        setattr(self._root, name, tensor)
        # The tensor is kept with its name, so that its id is not given to another one.
        self._tensors[id(tensor)] = (tensor, name)
        return name

    def module(self, module: Module) -> str:
        """Return the name of a module; it becomes an attribute if it is none yet."""
        self._note_modules()
        known = self._modules.get(id(module))
        return self.attach(module, "_module") if known is None else known[1]

    def attach(self, module: Module, base: str) -> str:
        """Make `module` an attribute under a fresh name starting with `base`."""
        name = self.fresh_name(base)
        self._root.add_module(name, module)
        return name

    def fresh_name(self, base: str) -> str:
        """Return a name that is free, starting with `base`."""
        name = f"{base}0"
        if not hasattr(self._root, name):
            self.counts[base] = 0
            return name
        number = self.counts.get(base, 0)
        while hasattr(self._root, f"{base}{number}"):
            number += 1
        self.counts[base] = number + 1
        return f"{base}{number}"

    def _note_modules(self) -> None:
        """Take note of the modules that have been attached since the last time."""
        children = self._root._modules
        if len(children) == len(self._noted):
            return
        for name, child in children.items():
            if child is not None and name not in self._noted:
                self._modules.setdefault(id(child), (child, name))
            self._noted.add(name)
