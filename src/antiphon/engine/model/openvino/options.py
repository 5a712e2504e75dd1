"""How OpenVINO compiles a model for the processor."""

from typing import Any

from antiphon.engine.model.sizing import ContextSettings


def compile_options(core: Any, settings: ContextSettings) -> dict[str, Any]:
    """Return the options for a context. With an f32 cache the model is computed in f32, else in bf16 where the processor can."""
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    computes_bf16 = has_bf16 and settings.kv_type_k != "f32"  # attention wants both alike
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": settings.batch_threads,
        "ENABLE_CPU_PINNING": False,  # a thread bound to a core that another process needs would wait for it
        "INFERENCE_PRECISION_HINT": "bf16" if computes_bf16 else "f32",
    }
