"""Write files in all of PyTorch's formats without PyTorch."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np


class Stub:
    """Pickles as a call or a name that Python's pickler could not write here."""

    def __init__(self, module, name, arguments=None, state=None):
        self.module, self.name, self.arguments, self.state = module, name, arguments, state


class Writer(pickle._Pickler):
    """Python's pickler; writes `Stub` and the data of tensors as PyTorch does."""

    def __init__(self, file, kinds, protocol=2):
        super().__init__(file, protocol)
        self.kinds = kinds

    def persistent_id(self, value):
        if isinstance(value, np.ndarray):  # a flat array is the data of a tensor
            kind = Stub("torch", self.kinds[value.dtype.name])
            return ("storage", kind, str(id(value)), "cpu", value.size, *(() if self.zipped else (None,)))
        return None

    def save(self, value, save_persistent_id=True):
        if not isinstance(value, Stub):
            return super().save(value, save_persistent_id)
        self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())
        if value.arguments is not None:
            self.save(value.arguments)
            self.write(pickle.REDUCE)
        if value.state is not None:
            self.save(value.state)
            self.write(pickle.BUILD)
        return None


KINDS = {"float32": "FloatStorage", "int64": "LongStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage"}


def tensor(flat, size, *, offset=0, stride=None):
    stride = stride or tuple(int(np.prod(size[i + 1 :])) for i in range(len(size)))
    return Stub("torch._utils", "_rebuild_tensor_v2", (flat, offset, size, stride, False, OrderedDict()))


def dumps(value, *, zipped, protocol=2):
    file = io.BytesIO()
    writer = Writer(file, KINDS, protocol)
    writer.zipped = zipped
    writer.dump(value)
    return file.getvalue()


def flats(value):
    """Return the flat arrays that tensors in ``value`` use."""
    if isinstance(value, np.ndarray):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        yield from flats(item)
    if isinstance(value, Stub):
        yield from flats([value.arguments, value.state])


def torch_zip(path, value, *, root="archive/", byteorder=b"little"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{root}data.pkl", dumps(value, zipped=True))
        archive.writestr(f"{root}byteorder", byteorder)
        for flat in {id(flat): flat for flat in flats(value)}.values():
            archive.writestr(f"{root}data/{id(flat)}", flat.tobytes())
        archive.writestr(f"{root}version", b"3\n")
    return path


def torch_legacy(path, value, *, little=True):
    parts = {str(id(flat)): flat for flat in flats(value)}
    system = {"protocol_version": 1001, "little_endian": little, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    with open(path, "wb") as file:
        for item in (0x1950A86A20F9469CFC6C, 1001, system):
            pickle.dump(item, file, protocol=2)
        file.write(dumps(value, zipped=False))
        pickle.dump(sorted(parts), file, protocol=2)
        for key in sorted(parts):
            file.write(struct.pack("<q", parts[key].size) + parts[key].tobytes())
    return path
