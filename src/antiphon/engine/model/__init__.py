"""One model file loaded in memory: the C API, vocabulary, sizes, weight formats."""
