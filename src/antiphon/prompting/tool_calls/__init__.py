"""Tool calls in the model's own syntax: detect it, constrain it, parse it."""
