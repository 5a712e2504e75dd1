"""What the API keeps for its clients: responses, conversations and chat completions, in the accounts' database."""

from antiphon.state.claims import Claim
from antiphon.state.completions import CompletionStore, StoredCompletion
from antiphon.state.conversations import Conversation, ConversationStore
from antiphon.state.responses import KeptResponse, ResponseStore, StoreStatistics
from antiphon.state.settings import McpServer, ResponseSettings
from antiphon.state.upstream_objects import UpstreamObject, UpstreamObjects

__all__ = [
    "Claim",
    "CompletionStore",
    "Conversation",
    "ConversationStore",
    "KeptResponse",
    "McpServer",
    "ResponseSettings",
    "ResponseStore",
    "StoreStatistics",
    "StoredCompletion",
    "UpstreamObject",
    "UpstreamObjects",
]
