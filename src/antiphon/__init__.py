"""Antiphon: the OpenAI API on your own machine, and a toolkit for applications that call it.

The names below are the toolkit's public face. Each is imported when it is first used, so that ``import antiphon`` loads
neither the server nor what a program does not use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from antiphon.errors import AntiphonError as AntiphonError
    from antiphon.search.chunking import Chunk as Chunk
    from antiphon.search.chunking import Chunking as Chunking
    from antiphon.search.prefixes import Prefixes as Prefixes
    from antiphon.toolkit.cache_file import CacheSize as CacheSize
    from antiphon.toolkit.calls.breaker import BreakerStatistics as BreakerStatistics
    from antiphon.toolkit.calls.breaker import CircuitBreaker as CircuitBreaker
    from antiphon.toolkit.calls.call_events import CallEnded as CallEnded
    from antiphon.toolkit.calls.call_events import FailedOver as FailedOver
    from antiphon.toolkit.calls.call_events import RequestRetried as RequestRetried
    from antiphon.toolkit.calls.call_events import RequestSent as RequestSent
    from antiphon.toolkit.calls.options import CallOptions as CallOptions
    from antiphon.toolkit.calls.options import EmbeddingOptions as EmbeddingOptions
    from antiphon.toolkit.calls.options import Fallback as Fallback
    from antiphon.toolkit.calls.response_cache import ResponseCache as ResponseCache
    from antiphon.toolkit.calls.response_cache import ResponseCacheStatistics as ResponseCacheStatistics
    from antiphon.toolkit.calls.retry import RetryPolicy as RetryPolicy
    from antiphon.toolkit.calls.retry_table import RetryTable as RetryTable
    from antiphon.toolkit.calls.retry_table import explain_client_retries as explain_client_retries
    from antiphon.toolkit.chat.attachments import File as File
    from antiphon.toolkit.chat.attachments import Image as Image
    from antiphon.toolkit.chat.attachments import Sound as Sound
    from antiphon.toolkit.chat.chat import AsyncChat as AsyncChat
    from antiphon.toolkit.chat.chat import Chat as Chat
    from antiphon.toolkit.chat.chat_state import ChatOptions as ChatOptions
    from antiphon.toolkit.chat.chat_state import SamplingWarning as SamplingWarning
    from antiphon.toolkit.chat.history import Turn as Turn
    from antiphon.toolkit.chat.reply import AnswerRejected as AnswerRejected
    from antiphon.toolkit.chat.reply import ChatEvent as ChatEvent
    from antiphon.toolkit.chat.reply import HistoryTrimmed as HistoryTrimmed
    from antiphon.toolkit.chat.reply import ParameterLeftOutWarning as ParameterLeftOutWarning
    from antiphon.toolkit.chat.reply import ReasoningDelta as ReasoningDelta
    from antiphon.toolkit.chat.reply import Replied as Replied
    from antiphon.toolkit.chat.reply import Reply as Reply
    from antiphon.toolkit.chat.reply import TextDelta as TextDelta
    from antiphon.toolkit.chat.reply import ToolFinished as ToolFinished
    from antiphon.toolkit.chat.reply import ToolStarted as ToolStarted
    from antiphon.toolkit.chat.reply import TruncatedAnswerWarning as TruncatedAnswerWarning
    from antiphon.toolkit.chat.result_stream import AsyncReplyStream as AsyncReplyStream
    from antiphon.toolkit.chat.result_stream import AsyncResultStream as AsyncResultStream
    from antiphon.toolkit.chat.result_stream import ReplyStream as ReplyStream
    from antiphon.toolkit.chat.result_stream import ResultStream as ResultStream
    from antiphon.toolkit.chat.trim import HistoryPolicy as HistoryPolicy
    from antiphon.toolkit.chat.trim import TrimReport as TrimReport
    from antiphon.toolkit.costs.budget import Budget as Budget
    from antiphon.toolkit.costs.budget import BudgetStatistics as BudgetStatistics
    from antiphon.toolkit.costs.choose import ModelCard as ModelCard
    from antiphon.toolkit.costs.choose import ModelChoice as ModelChoice
    from antiphon.toolkit.costs.choose import Task as Task
    from antiphon.toolkit.costs.choose import choose_model as choose_model
    from antiphon.toolkit.costs.prices import Price as Price
    from antiphon.toolkit.costs.prices import PriceTable as PriceTable
    from antiphon.toolkit.costs.prices import cost_of as cost_of
    from antiphon.toolkit.costs.report import Report as Report
    from antiphon.toolkit.costs.report import ReportStatistics as ReportStatistics
    from antiphon.toolkit.embeddings.embedder import Embedder as Embedder
    from antiphon.toolkit.embeddings.embedder import Embeddings as Embeddings
    from antiphon.toolkit.embeddings.embedder import aembed as aembed
    from antiphon.toolkit.embeddings.embedder import embed as embed
    from antiphon.toolkit.embeddings.embedding_cache import EmbeddingCache as EmbeddingCache
    from antiphon.toolkit.embeddings.similarity import cosine_similarity as cosine_similarity
    from antiphon.toolkit.errors import BatchFileError as BatchFileError
    from antiphon.toolkit.errors import BudgetExceededError as BudgetExceededError
    from antiphon.toolkit.errors import BulkError as BulkError
    from antiphon.toolkit.errors import CacheError as CacheError
    from antiphon.toolkit.errors import CircuitOpenError as CircuitOpenError
    from antiphon.toolkit.errors import ClientError as ClientError
    from antiphon.toolkit.errors import EmbeddingError as EmbeddingError
    from antiphon.toolkit.errors import EvaluationError as EvaluationError
    from antiphon.toolkit.errors import ExtractionError as ExtractionError
    from antiphon.toolkit.errors import FilterError as FilterError
    from antiphon.toolkit.errors import HistoryError as HistoryError
    from antiphon.toolkit.errors import IndexingError as IndexingError
    from antiphon.toolkit.errors import JournalError as JournalError
    from antiphon.toolkit.errors import NoModelError as NoModelError
    from antiphon.toolkit.errors import OutputError as OutputError
    from antiphon.toolkit.errors import RefusalError as RefusalError
    from antiphon.toolkit.errors import RequestTooLargeError as RequestTooLargeError
    from antiphon.toolkit.errors import RetryExhaustedError as RetryExhaustedError
    from antiphon.toolkit.errors import SchemaError as SchemaError
    from antiphon.toolkit.errors import StreamError as StreamError
    from antiphon.toolkit.errors import TokenizerError as TokenizerError
    from antiphon.toolkit.errors import ToolkitError as ToolkitError
    from antiphon.toolkit.errors import ToolLoopError as ToolLoopError
    from antiphon.toolkit.errors import ToolServerError as ToolServerError
    from antiphon.toolkit.errors import ToolsPendingError as ToolsPendingError
    from antiphon.toolkit.errors import TruncatedError as TruncatedError
    from antiphon.toolkit.errors import UnknownPriceError as UnknownPriceError
    from antiphon.toolkit.evaluation.cases import Case as Case
    from antiphon.toolkit.evaluation.evaluation import Evaluation as Evaluation
    from antiphon.toolkit.evaluation.index_scores import cited as cited
    from antiphon.toolkit.evaluation.index_scores import faithful as faithful
    from antiphon.toolkit.evaluation.index_scores import recall_at as recall_at
    from antiphon.toolkit.evaluation.result import EvaluationResult as EvaluationResult
    from antiphon.toolkit.evaluation.scores import Score as Score
    from antiphon.toolkit.evaluation.scores import close as close
    from antiphon.toolkit.evaluation.scores import contains as contains
    from antiphon.toolkit.evaluation.scores import equals as equals
    from antiphon.toolkit.evaluation.scores import judge as judge
    from antiphon.toolkit.index import AnswerStream as AnswerStream
    from antiphon.toolkit.index import AsyncAnswerStream as AsyncAnswerStream
    from antiphon.toolkit.index import AsyncIndex as AsyncIndex
    from antiphon.toolkit.index import CitedAnswer as CitedAnswer
    from antiphon.toolkit.index import Document as Document
    from antiphon.toolkit.index import Hit as Hit
    from antiphon.toolkit.index import Index as Index
    from antiphon.toolkit.index import Rerank as Rerank
    from antiphon.toolkit.index import UpdateReport as UpdateReport
    from antiphon.toolkit.index import read_folder as read_folder
    from antiphon.toolkit.observing import observe as observe
    from antiphon.toolkit.observing import stop_observing as stop_observing
    from antiphon.toolkit.pacing.pace import Pace as Pace
    from antiphon.toolkit.record import Attempt as Attempt
    from antiphon.toolkit.record import CallRecord as CallRecord
    from antiphon.toolkit.record import Timing as Timing
    from antiphon.toolkit.record import ToolCall as ToolCall
    from antiphon.toolkit.structured.cascade import Cascade as Cascade
    from antiphon.toolkit.structured.cascade import acascade as acascade
    from antiphon.toolkit.structured.cascade import cascade as cascade
    from antiphon.toolkit.structured.each import Extracted as Extracted
    from antiphon.toolkit.structured.each import aextract_each as aextract_each
    from antiphon.toolkit.structured.each import extract_each as extract_each
    from antiphon.toolkit.structured.extract import aextract as aextract
    from antiphon.toolkit.structured.extract import aextract_many as aextract_many
    from antiphon.toolkit.structured.extract import astream_items as astream_items
    from antiphon.toolkit.structured.extract import extract as extract
    from antiphon.toolkit.structured.extract import extract_many as extract_many
    from antiphon.toolkit.structured.extract import stream_items as stream_items
    from antiphon.toolkit.structured.summarise import Summary as Summary
    from antiphon.toolkit.structured.summarise import asummarise as asummarise
    from antiphon.toolkit.structured.summarise import summarise as summarise
    from antiphon.toolkit.tokens.count import TokenCount as TokenCount
    from antiphon.toolkit.tokens.count import acount_tokens as acount_tokens
    from antiphon.toolkit.tokens.count import count_tokens as count_tokens
    from antiphon.toolkit.tools.tool import FunctionTool as FunctionTool
    from antiphon.toolkit.tools.tool import SchemaTool as SchemaTool
    from antiphon.toolkit.tools.tool import TextTool as TextTool
    from antiphon.toolkit.tools.tool import Tool as Tool
    from antiphon.toolkit.tools.tool import ToolOptions as ToolOptions
    from antiphon.toolkit.tools.tool import tool as tool
    from antiphon.toolkit.tools.tool_loop import ToolLimits as ToolLimits
    from antiphon.toolkit.tools.tool_loop import ToolResult as ToolResult
    from antiphon.toolkit.tools.tool_servers import ToolServer as ToolServer
    from antiphon.toolkit.tools.tool_servers import mcp_tools as mcp_tools
    from antiphon.toolkit.usage import Usage as Usage

__version__ = "0.1.0"

_PUBLIC = {
    "antiphon.toolkit.observing": ("observe", "stop_observing"),
    "antiphon.toolkit.evaluation.cases": ("Case",),
    "antiphon.toolkit.evaluation.evaluation": ("Evaluation",),
    "antiphon.toolkit.evaluation.index_scores": ("cited", "faithful", "recall_at"),
    "antiphon.toolkit.evaluation.result": ("EvaluationResult",),
    "antiphon.toolkit.evaluation.scores": ("Score", "close", "contains", "equals", "judge"),
    "antiphon.errors": ("AntiphonError",),
    "antiphon.toolkit.cache_file": ("CacheSize",),
    "antiphon.toolkit.calls.breaker": ("BreakerStatistics", "CircuitBreaker"),
    "antiphon.toolkit.costs.budget": ("Budget", "BudgetStatistics"),
    "antiphon.toolkit.calls.call_events": ("CallEnded", "FailedOver", "RequestRetried", "RequestSent"),
    "antiphon.toolkit.calls.options": ("CallOptions", "EmbeddingOptions", "Fallback"),
    "antiphon.toolkit.pacing.pace": ("Pace",),
    "antiphon.toolkit.structured.cascade": ("Cascade", "acascade", "cascade"),
    "antiphon.toolkit.chat.attachments": ("File", "Image", "Sound"),
    "antiphon.toolkit.chat.chat": ("AsyncChat", "Chat"),
    "antiphon.toolkit.chat.chat_state": ("ChatOptions", "SamplingWarning"),
    "antiphon.toolkit.costs.choose": ("ModelChoice", "ModelCard", "Task", "choose_model"),
    "antiphon.search.chunking": ("Chunk", "Chunking"),
    "antiphon.toolkit.embeddings.embedding_cache": ("EmbeddingCache",),
    "antiphon.toolkit.embeddings.embedder": ("Embedder", "Embeddings", "aembed", "embed"),
    "antiphon.toolkit.errors": (
        "BatchFileError",
        "BudgetExceededError",
        "BulkError",
        "CacheError",
        "CircuitOpenError",
        "ClientError",
        "EmbeddingError",
        "EvaluationError",
        "ExtractionError",
        "FilterError",
        "HistoryError",
        "IndexingError",
        "JournalError",
        "NoModelError",
        "OutputError",
        "RefusalError",
        "RequestTooLargeError",
        "RetryExhaustedError",
        "SchemaError",
        "StreamError",
        "TokenizerError",
        "ToolLoopError",
        "ToolServerError",
        "ToolkitError",
        "ToolsPendingError",
        "TruncatedError",
        "UnknownPriceError",
    ),
    "antiphon.toolkit.chat.history": ("Turn",),
    "antiphon.search.prefixes": ("Prefixes",),
    "antiphon.toolkit.index": (
        "AnswerStream",
        "AsyncAnswerStream",
        "AsyncIndex",
        "CitedAnswer",
        "Document",
        "Hit",
        "Index",
        "Rerank",
        "UpdateReport",
        "read_folder",
    ),
    "antiphon.toolkit.costs.prices": ("Price", "PriceTable", "cost_of"),
    "antiphon.toolkit.record": ("Attempt", "CallRecord", "Timing", "ToolCall"),
    "antiphon.toolkit.chat.reply": (
        "AnswerRejected",
        "ChatEvent",
        "HistoryTrimmed",
        "ParameterLeftOutWarning",
        "ReasoningDelta",
        "Replied",
        "Reply",
        "TextDelta",
        "ToolFinished",
        "ToolStarted",
        "TruncatedAnswerWarning",
    ),
    "antiphon.toolkit.costs.report": ("Report", "ReportStatistics"),
    "antiphon.toolkit.calls.response_cache": ("ResponseCacheStatistics", "ResponseCache"),
    "antiphon.toolkit.chat.result_stream": ("AsyncReplyStream", "AsyncResultStream", "ReplyStream", "ResultStream"),
    "antiphon.toolkit.calls.retry": ("RetryPolicy",),
    "antiphon.toolkit.calls.retry_table": ("RetryTable", "explain_client_retries"),
    "antiphon.toolkit.embeddings.similarity": ("cosine_similarity",),
    "antiphon.toolkit.structured.each": ("Extracted", "aextract_each", "extract_each"),
    "antiphon.toolkit.structured.summarise": ("Summary", "asummarise", "summarise"),
    "antiphon.toolkit.structured.extract": (
        "aextract",
        "aextract_many",
        "astream_items",
        "extract",
        "extract_many",
        "stream_items",
    ),
    "antiphon.toolkit.tokens.count": ("TokenCount", "acount_tokens", "count_tokens"),
    "antiphon.toolkit.tools.tool_servers": ("ToolServer", "mcp_tools"),
    "antiphon.toolkit.tools.tool_loop": ("ToolLimits", "ToolResult"),
    "antiphon.toolkit.tools.tool": ("FunctionTool", "SchemaTool", "TextTool", "Tool", "ToolOptions", "tool"),
    "antiphon.toolkit.chat.trim": ("HistoryPolicy", "TrimReport"),
    "antiphon.toolkit.usage": ("Usage",),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = [*_HOME]  # noqa: PLE0604 # pyright: ignore[reportUnsupportedDunderAll] - names, each once


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'antiphon' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
