"""Plugins: found among the installed distributions, checked, loaded, and asked what they provide.

The steps are separate: :func:`find` lists the plugins that are installed without importing any,
:class:`PluginManager` decides which take part, imports those and calls their hooks. Every failure
is attributed to a plugin, its distribution and its version. Importing this package leaves torch
unloaded.
"""

from __future__ import annotations

from ._catalogue import CATALOGUE as CATALOGUE
from ._catalogue import distribution_for as distribution_for
from ._classify import ALLOW_VARIABLE as ALLOW_VARIABLE
from ._classify import DENY_VARIABLE as DENY_VARIABLE
from ._classify import PluginStatus as PluginStatus
from ._find import Candidate as Candidate
from ._find import find as find
from ._given import UNPACKAGED as UNPACKAGED
from ._given import GivenPlugin as GivenPlugin
from ._kernel import KERNEL as KERNEL
from ._kernel import KERNEL_MODES as KERNEL_MODES
from ._kernel import kernel as kernel
from ._manager import PluginInfo as PluginInfo
from ._manager import PluginManager as PluginManager
from ._manager import Registered as Registered
from ._references import resolve as resolve
