"""Opens what ``convert`` made, as the kind of model that it is."""

from pathlib import Path

import msgspec

from antiphon.engine.model.openvino.converted import ORIGIN, Origin
from antiphon.engine.model.openvino.encoder import EncoderModel
from antiphon.engine.model.openvino.model import PagedModel


def open_converted(folder: Path, source: Path) -> PagedModel | EncoderModel:
    """Return the model in ``folder``, which was made of the GGUF file ``source``.

    Raises:
        OpenVinoError, OSError: the folder cannot be read. ModelError: the file's vocabulary cannot.
    """
    origin = msgspec.json.decode((folder / ORIGIN).read_bytes(), type=Origin)
    return EncoderModel(folder, source) if origin.is_encoder else PagedModel(folder, source)
