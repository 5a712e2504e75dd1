"""The wire's sampling parameters in the engine's terms."""

from antiphon.engine.ipc.messages import SamplingParams
from antiphon.protocol import chat as wire


def engine_sampling(sampling: wire.Sampling) -> SamplingParams:
    """Return the same values; both sides use OpenAI's ranges."""
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logit_bias=sampling.logit_bias,
        seed=sampling.seed,
    )
