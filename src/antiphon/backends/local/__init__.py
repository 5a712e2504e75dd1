"""A model on this machine: prompting around the engine."""
