"""The runtime over OpenVINO's PagedAttention: a GGUF file converted once, a KV cache of pages that this package owns."""
