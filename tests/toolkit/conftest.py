"""Fixtures of the toolkit's tests."""

import pytest
from tests.toolkit.scripted_endpoint import Endpoint

from antiphon.toolkit.calls import forms
from antiphon.toolkit.tokens import context, ranks, server_tokens


@pytest.fixture
def endpoint() -> Endpoint:
    """An endpoint of its own, about which nothing is remembered yet."""
    context._contexts.clear()
    server_tokens._dialects.clear()
    forms.FORMS.forget()
    return Endpoint()


@pytest.fixture
def rank_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenAI's rank files, from the store or by pip; never from an address beyond it."""

    def unreachable(file: ranks.RankFile) -> bytes:
        raise OSError("no network in tests")

    monkeypatch.setattr(ranks, "_download", unreachable)
