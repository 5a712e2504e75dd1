"""The engine process: its entry point, its socket, its core."""
