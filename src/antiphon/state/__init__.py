"""What the API keeps for its clients: responses and conversations, in the accounts' database."""

from antiphon.state.conversations import Conversation, ConversationStore
from antiphon.state.responses import KeptResponse, ResponseStore, StoreStatistics
from antiphon.state.settings import ResponseSettings

__all__ = ["Conversation", "ConversationStore", "KeptResponse", "ResponseSettings", "ResponseStore", "StoreStatistics"]
