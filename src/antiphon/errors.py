"""The root of every exception that Antiphon raises.

AntiphonError
├── ConfigError           settings: an unknown key, a bad value (names the key and where it came from)
├── protocol.ApiError     an answer in OpenAI's error envelope
├── models.ModelError     catalogue, downloads, files on disk
├── prompting.PromptError templates, grammars, reading generated text
├── engine.EngineError    the process that runs a model
├── accounts.AccountError keys, limits, the ledger
└── toolkit.ToolkitError  what an application meets
"""


class AntiphonError(Exception):
    """Something went wrong that the user can act on.

    ``hint`` is the next step to take, or an empty string. ``str()`` is the message alone;
    a command line prints both.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(AntiphonError):
    """A setting that cannot be accepted; the message names it and where it was read."""
