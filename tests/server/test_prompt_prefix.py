"""A response that runs tools continues from the prefix cache: each next prompt begins with the one before."""

from pathlib import Path
from typing import Any

import pytest

from antiphon.prompting import ChatPrompter
from antiphon.protocol.chat import ChatRequest, Tool, ToolChoice
from antiphon.protocol.responses import messages_of

TEMPLATES = Path(__file__).parents[1] / "prompting" / "templates"
FAMILIES = (
    "command_r7b", "deepseek_v3", "deepseek_v31", "functionary32", "glm45", "gpt_oss", "granite3", "hermes", "kimi_k2",
    "llama31", "llama4_pythonic", "minicpm3", "mistral_v11", "mistral_v3", "phi4_mini", "qwen3", "qwen3_coder", "seed_oss",
)  # fmt: skip
READ = Tool(name="files__read", parameters={"type": "object", "properties": {"path": {"type": "string"}}})
ASKED = {"type": "message", "role": "user", "content": "Read a and b."}


def run(number: int, path: str) -> dict[str, Any]:
    """A call that this server ran."""
    return {
        "type": "mcp_call", "id": f"mcp_{number}00000000", "server_label": "files", "name": "read",
        "arguments": f'{{"path": "{path}"}}', "output": f"text of {path}", "status": "completed",
    }  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_each_generation_begins_with_the_prompt_of_the_last(family: str) -> None:
    """With the template of every family that calls tools: calls one after another are shown one after another."""
    prompter = ChatPrompter(
        template=(TEMPLATES / f"{family}.jinja").read_text(),
        templates={},
        bos_token="<s>",
        eos_token="</s>",
        adds_bos=False,
        control_tokens=(),
        end_tokens=(),
        token_ids={},
    )

    def prompt(*items: dict[str, Any]) -> str:
        messages = messages_of(items, str, {})
        request = ChatRequest(model="m", messages=messages, tools=(READ,), tool_choice=ToolChoice("auto"))
        return "".join(piece.text for piece in prompter.prompt(request))

    first = prompt(ASKED)
    second = prompt(ASKED, run(1, "a"))
    third = prompt(ASKED, run(1, "a"), run(2, "b"))
    assert second.startswith(first)
    assert third.startswith(second)
