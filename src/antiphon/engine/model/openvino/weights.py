"""The weights of a converted model, as little of them in memory as computing needs.

OpenVINO multiplies plain weights in a copy that is packed for its kernels, and keeps what it packed: numbers of single
precision. Stored as such, they are read from the file when they are packed, and need not stay in memory.
"""

import ctypes
import mmap
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

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


def center(model: Any) -> None:
    """Store integer weights whose zero is in the middle of their range as signed integers, which have no zero to subtract.

    The numbers stay the same; a product computes less, and the graph has a tenth fewer operations.
    """
    module = openvino()
    signed = {"u8": (module.Type.i8, 0x80, {128}), "u4": (module.Type.i4, 0x88, {0x88})}
    for node in list(model.get_ops()):
        stored, zero = _constant(node, 0), _constant(node, 1)
        if node.get_type_name() != "Subtract" or stored is None or zero is None:
            continue
        kind, flipped, middle = signed.get(stored.get_element_type().get_type_name(), (None, 0, set[int]()))
        # Two numbers of four bits lie in a byte; of an odd number, the last byte is half empty.
        if kind is None or zero.get_element_type() != stored.get_element_type() or set(_bytes(zero)) != middle:
            continue
        tensor = module.Tensor(_bytes(stored) ^ np.uint8(flipped), module.Shape(stored.get_output_shape(0)), kind)
        constant: Any = module.op.Constant(tensor, shared_memory=False)
        node.output(0).replace(module.opset13.convert(constant, node.get_element_type()).output(0))
    model.validate_nodes_and_infer_types()


def _constant(node: Any, number: int) -> Any:
    """Return the constant whose numbers, converted to another type, are an input of ``node``; None if there is none."""
    if number >= node.get_input_size():
        return None
    widened = node.input_value(number).get_node()
    if widened.get_type_name() != "Convert":
        return None
    stored = widened.input_value(0).get_node()
    return stored if stored.get_type_name() == "Constant" else None


def _bytes(constant: Any) -> NDArray[np.uint8]:
    return np.asarray(constant.get_data()).reshape(-1).view(np.uint8)


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
