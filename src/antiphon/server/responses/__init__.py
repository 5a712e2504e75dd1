"""Responses on their way: the history they follow, what is sealed for clients, and those that run in the background."""
