"""Opens a model file as the core that serves its kind."""

from antiphon.engine.errors import EngineStartFailed
from antiphon.engine.model.openvino.encoder import EncoderModel
from antiphon.engine.model.weight_format import wanted_runtime
from antiphon.engine.settings import EngineSettings
from antiphon.engine.steps.batch_loop import Emit
from antiphon.engine.worker.core import EngineCore
from antiphon.engine.worker.generation_core import GenerationCore
from antiphon.engine.worker.loading import load_converted, load_model
from antiphon.engine.worker.native_start import NativeStart
from antiphon.engine.worker.pooling_core import PoolingCore


def open_core(settings: EngineSettings, native: NativeStart, emit: Emit) -> EngineCore:
    """Load the model; ``emit`` gets the answers, on the thread of the core's loop.

    Raises:
        EngineStartFailed: the model cannot be served.
    """
    served = native.weights()
    native.enter("loading the model")
    if served.runtime == "openvino":
        try:
            converted = load_converted(served.path, settings.model_path)
            if isinstance(converted, EncoderModel):
                return PoolingCore(settings, native, served, converted, emit)
            return GenerationCore(settings, native, served, converted, emit)
        except EngineStartFailed as error:
            if native.library is None or wanted_runtime(settings) != "auto":
                raise
            served = native.weights_without_openvino(error.message)
            native.enter("loading the model")
    model = load_model(served.path, settings.gpu_layers, extra_buffers=native.extra_buffers)
    core = PoolingCore if model.is_embedding or settings.pooling == "rank" else GenerationCore
    return core(settings, native, served, model, emit)
