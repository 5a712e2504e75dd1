"""The runtime over OpenVINO: a GGUF file converted once; attention over pages that this package owns, or an encoder's graph."""
