"""Identifiers: of a form, and for items of one that leads to their response."""

import pytest

from antiphon.protocol.ids import new_id, new_item_id, response_id_of


@pytest.mark.parametrize("prefix", ["msg", "rs", "fc", "ctc", "cmp", "mcpl", "fs", "item"])
@pytest.mark.parametrize("number", [0, 7, 255, 256, 70_000])
def test_an_item_leads_to_its_response(prefix: str, number: int) -> None:
    """The id of an item holds that of its response; no two items of a response share an id."""
    response_id = new_id("resp", "_")
    made = new_item_id(prefix, response_id, number)
    assert made.startswith(f"{prefix}_")
    assert len(made) <= 64, "what OpenAI allows for the id of an item"
    assert response_id_of(made) == response_id
    assert made != new_item_id(prefix, response_id, number + 1)


@pytest.mark.parametrize("given", ["", "msg", "msg_", "msg_1", "x" * 80, new_id("msg", "_"), new_id("chatcmpl")])
def test_other_ids_lead_nowhere(given: str) -> None:
    """Clients may give items any id; those of another form belong to no response by themselves."""
    assert response_id_of(given) is None
