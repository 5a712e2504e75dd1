"""Lark grammars: composing them, and checking those that users supply."""
