"""The tensors of a file, as plain bytes: pickles have no part in them, nor torch's readers."""

from __future__ import annotations

import ctypes
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from .._torch.archives import DTYPES_IN_FILES, ArchiveWriter, TensorEntries, TensorEntry, write_meta
from .._torch.fake import FakeTensor
from ..errors import ArtifactError


def write_tensors(tensors: Mapping[str, Any], archive: ArchiveWriter, prefix: str) -> TensorEntries:
    """Write tensors, and memory that several share once, and return what describes them.

    Args:
        tensors: Tensors by name.
        archive: Where to write them.
        prefix: How the names of the members begin.

    Raises:
        ArtifactError: One has no bytes of its own that could be written.
    """
    members: dict[int, str] = {}
    entries = {}
    for name, tensor in tensors.items():
        _refuse_without_bytes(name, tensor)
        storage = tensor.untyped_storage()
        if storage._cdata not in members:
            member = members[storage._cdata] = f"{prefix}{len(members)}"
            on_cpu = torch.UntypedStorage(0) if tensor.is_meta else storage.cpu()
            size = on_cpu.nbytes()
            archive.archive_file.write_record(member, on_cpu, size)  # type: ignore[arg-type]
        entries[name] = TensorEntry(
            path_name=members[storage._cdata].rpartition("/")[2],
            is_param=isinstance(tensor, Parameter),
            use_pickle=False,
            tensor_meta=write_meta(tensor),
        )
    return TensorEntries(config=entries)


def _refuse_without_bytes(name: str, tensor: Any) -> None:
    problem = ""
    if not isinstance(tensor, Tensor):
        problem = f"is a {type(tensor).__name__}"
    elif isinstance(tensor, FakeTensor):
        problem = "is a fake tensor, which has no values"
    elif type(tensor.data) is not Tensor:
        problem = f"is of the tensor subclass {type(tensor.data).__name__}"
    elif tensor.layout is not torch.strided:
        problem = f"is of the layout {tensor.layout}"
    if problem:
        raise ArtifactError(
            f"{name} {problem}, and a .pt2 file holds plain tensors",
            hint="save a program of a module whose state is plain tensors",
            stage="save",
        )


def read_tensors(
    config: Mapping[str, Any], archive: zipfile.ZipFile, folder: str
) -> dict[str, Tensor]:
    """Return the tensors that a checked configuration describes; some may share memory.

    Args:
        config: What is stored, by the name of the tensor.
        archive: Where it is stored.
        folder: The folder of the members, with a slash at the end.

    Raises:
        KeyError, RuntimeError, TypeError, ValueError: The configuration and the members do not go
            together.
    """
    storages: dict[str, torch.UntypedStorage] = {}
    tensors = {}
    for name, entry in config.items():
        path = entry["path_name"]
        device = _device(entry["tensor_meta"]["device"])
        if path not in storages:
            storages[path] = _storage(archive, folder + path).to(device=device)
        tensors[name] = _tensor(entry, storages[path], device)
    return tensors


def _storage(archive: zipfile.ZipFile, member: str) -> torch.UntypedStorage:
    size = archive.getinfo(member).file_size
    storage = torch.UntypedStorage(size)
    if size:
        memory = (ctypes.c_ubyte * size).from_address(storage.data_ptr())
        with archive.open(member) as stream:
            count = stream.readinto(memory)  # type: ignore[attr-defined]
            # The end of a member is where its checksum is compared.
            if count != size or stream.read(1):
                raise ValueError(f"{member} has {count} bytes instead of {size}")
    return storage


def _tensor(
    entry: Mapping[str, Any], storage: torch.UntypedStorage, device: torch.device
) -> Tensor:
    meta = entry["tensor_meta"]
    dtype = DTYPES_IN_FILES[meta["dtype"]]
    shape, stride = ([_integer(each) for each in meta[key]] for key in ("sizes", "strides"))
    offset = _integer(meta["storage_offset"])
    if device.type == "meta":
        whole = torch.empty_strided(shape, stride, dtype=dtype, device=device)
    else:
        count, rest = divmod(storage.nbytes(), dtype.itemsize)
        if rest:
            raise ValueError(f"{storage.nbytes()} bytes are no whole number of {dtype}")
        elements = torch.empty(0, dtype=dtype, device=device).set_(storage, 0, (count,), (1,))
        whole = elements.as_strided(shape, stride, offset)
    requires_grad = bool(meta["requires_grad"])
    if entry["is_param"]:
        return Parameter(whole, requires_grad)
    return whole.requires_grad_(requires_grad)


def _integer(written: Mapping[str, Any]) -> int:
    value = written["as_int"]
    if type(value) is not int:
        raise TypeError(f"{value!r} is no integer")
    return value


def _device(written: Mapping[str, Any]) -> torch.device:
    kind, index = str(written["type"]), written["index"]
    return torch.device(kind) if index is None else torch.device(kind, int(index))
