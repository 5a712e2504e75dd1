"""Multi-turn conversations."""
