"""Runs one model file over llama.cpp in a process of its own: token ids in, tokens out."""
