"""Which models there are, their aliases, and where their weights come from."""
