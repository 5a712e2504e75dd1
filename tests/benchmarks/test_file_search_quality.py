"""``file_search`` with a chat-only model behind an upstream, as the benchmark of citations uses it."""

from pathlib import Path

import openai
import pytest
from benchmarks.file_search_quality import citations, citing_model, filled_store
from benchmarks.search_quality import Query
from tests.serving import running

from antiphon.backends.routing import Router
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Script
from antiphon.backends.upstream import UpstreamBackend, UpstreamModel, UpstreamSettings
from antiphon.toolkit.index import Document

PAGES = [
    Document("bread", "Knead the dough of rye flour, then bake it for an hour."),
    Document("whales", "The blue whale eats krill in cold seas."),
    Document("engines", "The zeppelin has four engines."),
]


def test_citations_of_a_translated_model_name_the_passages_that_it_saw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The upstream has chat completions alone: the server searches, and turns its marks into citations."""
    with citing_model() as url:
        settings = UpstreamSettings(
            name="api", base_url=url, models=(UpstreamModel(id="citing"),), responses="translate"
        )
        script = ScriptedBackend(Script(models=(), embedding_models=("vectors",)))
        router = Router({"script": script, "api": UpstreamBackend(settings, environ={})})
        with (
            running(router, tmp_path) as up,
            openai.OpenAI(base_url=up.url, api_key="any", max_retries=0) as client,
        ):
            store_id, files = filled_store(client, PAGES)
            queries = [Query("sentences", "krill in cold seas", "whales", 0, len(PAGES[1].text))]
            citations(client, store_id, files, queries)
    said = capsys.readouterr().out
    assert "3 files read, 0 failed" in said
    assert "3 of 3 name the file with the passage" in said
    assert "1 of 1 lie in the section" in said
