"""For tests of applications that call the API: scripted answers, and recorded ones, without a network.

A test scripts the answers, and the application's own code, with its own ``OpenAI()``, gets them. Requests are read, checked
and answered by the code of Antiphon's server, so that a request that the API would refuse is refused here too. The pytest
plugin (``antiphon.testing.plugin``) gives the fixture ``scripted`` and the mark ``recorded``.

Each name is imported when it is first used, since pytest imports this package wherever it is installed.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from antiphon.backends.scripted.script import ScriptedCall as ScriptedCall
    from antiphon.testing.answers import Answer as Answer
    from antiphon.testing.answers import answer as answer
    from antiphon.testing.answers import calls as calls
    from antiphon.testing.answers import error as error
    from antiphon.testing.endpoint import JournalEntry as JournalEntry
    from antiphon.testing.endpoint import ScriptedEndpoint as ScriptedEndpoint
    from antiphon.testing.interception import UnexpectedRequestError as UnexpectedRequestError
    from antiphon.testing.tape import Tape as Tape

_HOME = {
    "Answer": "antiphon.testing.answers",
    "JournalEntry": "antiphon.testing.endpoint",
    "ScriptedCall": "antiphon.backends.scripted.script",
    "ScriptedEndpoint": "antiphon.testing.endpoint",
    "Tape": "antiphon.testing.tape",
    "UnexpectedRequestError": "antiphon.testing.interception",
    "answer": "antiphon.testing.answers",
    "calls": "antiphon.testing.answers",
    "error": "antiphon.testing.answers",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'antiphon.testing' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
