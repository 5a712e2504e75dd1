"""How many tokens a text has where no tokenizer can be asked."""

CHARACTERS_PER_TOKEN = 4
"""Characters of English prose per token, with the vocabularies in use; OpenAI's limiter estimates with the same number."""
