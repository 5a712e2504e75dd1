"""The messages between the API process and an engine process, and their framing."""
