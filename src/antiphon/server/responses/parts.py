"""The parts of one server process that make responses, and keep them."""

from antiphon.accounts import Accounts
from antiphon.backends.base import Backend
from antiphon.server.request.access import Access
from antiphon.server.request.body import RequestBodies
from antiphon.server.responses.answers import Answers
from antiphon.server.responses.file_search import FileSearch
from antiphon.server.responses.intake import ResponseIntake
from antiphon.server.responses.jobs import Jobs
from antiphon.server.responses.mcp.servers import McpServers
from antiphon.server.responses.sealing import Sealer
from antiphon.server.responses.server_tool import OpenTool, ServerTools
from antiphon.server.responses.tool_search import open_tool_search
from antiphon.server.responses.turns import Turns
from antiphon.state import ConversationStore, ResponseSettings, ResponseStore
from antiphon.vector_stores import VectorStores


class ResponseParts:
    """Puts them together; ``aclose`` stops the responses that run in the background."""

    def __init__(
        self,
        settings: ResponseSettings,
        accounts: Accounts,
        backend: Backend,
        *,
        access: Access,
        bodies: RequestBodies,
        vector_stores: VectorStores,
    ) -> None:
        self.settings = settings
        self.store = ResponseStore(accounts.engine, settings)
        self.conversations = ConversationStore(accounts.engine)
        self.jobs = Jobs(self.store)
        sealer = Sealer(accounts.derive_key("sealed reasoning"))
        openers: dict[str, OpenTool] = {
            "file_search": FileSearch(vector_stores).open,
            "tool_search": open_tool_search,
        }
        mcp = McpServers(settings)
        if mcp.is_on:
            openers["mcp"] = mcp.open
        tools = ServerTools(openers)
        self.turns = Turns(
            backend, self.store, self.conversations, sealer, tools=tools, max_tool_calls=settings.max_tool_calls
        )
        self.intake = ResponseIntake(
            access, bodies, self.turns, tools, hosted_tools=settings.hosted_tools, can_store=self.store.is_on
        )
        self.answers = Answers(self.store, self.conversations, sealer)

    async def aclose(self) -> None:
        """Stop what runs in the background."""
        await self.jobs.aclose()
