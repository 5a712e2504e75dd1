"""MCP servers as tools that the server runs: which of them it may reach, sessions with them, and their items.

Needs the package ``mcp`` (extra ``mcp``); the other modules of this folder import it, so they are imported where it is used.
"""
