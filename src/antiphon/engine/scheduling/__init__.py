"""What to compute next, and in which KV cache cells. Pure: nothing native is imported."""
