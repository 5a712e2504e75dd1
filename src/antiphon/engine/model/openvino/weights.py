"""The weights of a converted model, as little of them in memory as computing needs.

OpenVINO multiplies plain weights in a copy that is packed for its kernels, and keeps what it packed: numbers of single
precision. Stored as such, they are read from the file when they are packed, and need not stay in memory.
"""

import ctypes
import mmap
from pathlib import Path
from typing import Any, Final

import numpy as np

from antiphon.engine.model.openvino.library import openvino

_MAPS: Final = Path("/proc/self/maps")


def store_products_in_f32(model: Any) -> None:
    """Replace the f16 weights of products by the same numbers in single precision; embeddings are read row by row, and stay."""
    module = openvino()
    for node in list(model.get_ops()):
        if node.get_type_name() != "Convert" or node.get_element_type() != module.Type.f32:
            continue
        stored = node.input_value(0).get_node()
        if stored.get_type_name() != "Constant" or stored.get_element_type() != module.Type.f16:
            continue
        users = [user for user in node.output(0).get_target_inputs() if user.get_node().get_type_name() != "Gather"]
        if users:
            constant: Any = module.opset13.constant(np.array(stored.get_data()).astype(np.float32))
            for user in users:
                user.replace_source_output(constant.output(0))
    model.validate_nodes_and_infer_types()


def forget_file(path: Path) -> None:
    """Give back the memory of a file that is mapped for reading; what is read again comes from the file.

    Where the system does not list mappings, nothing happens: it takes back such memory itself when it is short.
    """
    try:
        lines = _MAPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        area, permissions, *_, name = [*line.split(maxsplit=5), ""][:6]
        if name == str(path.resolve()) and permissions.startswith("r-"):
            start, end = (int(part, 16) for part in area.split("-"))
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)
