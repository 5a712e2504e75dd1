"""Messages as chat templates take them, and the ways in which a conversation may be adapted to a template.

A template knows the roles its model was trained on. Where it does not know one, the conversation is adapted in the
way that model families themselves document; each function here is one such adaptation, and none loses a message.
"""

from collections.abc import Callable, Sequence
from typing import Any

Turn = dict[str, Any]
Adaptation = Callable[[list[Turn]], list[Turn]]

_MERGEABLE = frozenset({"user", "assistant", "system"})


def developer_as_system(turns: list[Turn]) -> list[Turn]:
    """Give the developer's turns the role that models before it were trained on."""
    return [{**turn, "role": "system"} if turn["role"] == "developer" else turn for turn in turns]


def joined_system(turns: list[Turn]) -> list[Turn]:
    """Move all system turns into one at the head."""
    instructions = [turn for turn in turns if turn["role"] in {"system", "developer"}]
    if not instructions:
        return turns
    rest = [turn for turn in turns if turn["role"] not in {"system", "developer"}]
    return [{"role": instructions[0]["role"], "content": _join(instructions)}, *rest]


def system_in_user(turns: list[Turn]) -> list[Turn]:
    """Put the instructions at the head of the first user turn, as Gemma does; as a user turn if there is none."""
    instructions = [turn for turn in turns if turn["role"] in {"system", "developer"}]
    rest = [turn for turn in turns if turn["role"] not in {"system", "developer"}]
    if not instructions:
        return turns
    first = next((i for i, turn in enumerate(rest) if turn["role"] == "user"), None)
    if first is None:
        return [{"role": "user", "content": _join(instructions)}, *rest]
    opening = {**rest[first], "content": _join([*instructions, rest[first]])}
    return [*rest[:first], opening, *rest[first + 1 :]]


def merged_neighbours(turns: list[Turn]) -> list[Turn]:
    """Merge turns of one role that follow each other, for templates that insist on alternation."""
    runs: list[list[Turn]] = []
    for turn in turns:
        last = runs[-1][-1] if runs else None
        if last and last["role"] == turn["role"] and turn["role"] in _MERGEABLE and not last.get("tool_calls"):
            runs[-1].append(turn)
        else:
            runs.append([turn])
    return [run[0] if len(run) == 1 else {**run[-1], "content": _join(run)} for run in runs]


def separate_calls(turns: list[Turn]) -> list[Turn]:
    """Move an assistant's text that accompanies calls into a turn of its own, for templates that would drop it."""
    separated: list[Turn] = []
    for turn in turns:
        if turn.get("tool_calls") and turn["content"]:
            separated += [{"role": turn["role"], "content": turn["content"]}, {**turn, "content": ""}]
        else:
            separated.append(turn)
    return separated


def later_words(turns: list[Turn]) -> list[Turn]:
    """Move an assistant's text that accompanies calls to the start of its text after their results.

    For templates that neither show text with calls nor accept two turns of the assistant in one exchange.
    """
    moved: list[Turn] = []
    waiting: list[Turn] = []
    for turn in turns:
        if turn.get("tool_calls") and turn["content"]:
            waiting.append(turn)
            moved.append({**turn, "content": ""})
        elif turn["role"] == "assistant" and waiting:
            moved.append({**turn, "content": _join([*waiting, turn])})
            waiting = []
        else:
            moved.append(turn)
    return moved


def content_in_parts(turns: list[Turn]) -> list[Turn]:
    """Give content as a list of typed parts, for templates that iterate over it."""
    return [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]


def _join(turns: Sequence[Turn]) -> str:
    return "\n\n".join(turn["content"] for turn in turns if turn["content"])
