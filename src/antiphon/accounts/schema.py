"""The tables. Times are Unix milliseconds (UTC), so that buckets of time are integer arithmetic in every database."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    false,
)

metadata = MetaData()

keys = Table(
    "keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("hint", String(40), nullable=False),  # how the key looks, masked
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger),
    Column("revoked_at_ms", BigInteger),
    Column("rpm", Integer),
    Column("tpm", BigInteger),
    Column("rpd", Integer),
    Column("concurrency", Integer),
    Column("budget_usd", Double),
    Column("budget_period", String(8)),
    Column("models", String(4000)),  # comma-separated; NULL is every model
    Column("is_admin", Boolean, nullable=False),
)

# One row. Each change of a key raises `generation`, which is how every process notices at once.
key_state = Table(
    "key_state",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("generation", BigInteger, nullable=False),
    Column("secret_check", LargeBinary(32)),
)

usage = Table(
    "usage",
    metadata,
    Column("id", String(28), primary_key=True),  # sorts by time
    Column("at_ms", BigInteger, nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("key_id", String(32)),  # NULL: open mode
    Column("kind", String(16), nullable=False),
    Column("model_asked", String(256), nullable=False),
    Column("model_answered", String(256)),
    Column("status", Integer, nullable=False),
    Column("error_code", String(64)),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("cache", String(8)),  # NULL: no response cache was asked
    Column("ttft_s", Double),
    Column("duration_s", Double, nullable=False),
    Column("compute_s", Double),
    Column("usd", Double),  # NULL: no price is known, which is not 0
    Column("saved_usd", Double),  # NULL: the response cache spared nothing, or no price is known
    Column(
        "is_estimate", Boolean, nullable=False, server_default=false()
    ),  # the tokens are estimated: an API did not report them
    Column("path", String(64)),  # NULL: an older version wrote the row
    Column("queue_s", Double),  # NULL: no engine of this machine
    Column("prefill_s", Double),
    Column("attempts", Text),  # JSON; NULL: the request had one backend alone
    Column("is_batch", Boolean, nullable=False, server_default=false()),  # a request of a client's batch
    Index("usage_by_time", "at_ms"),
    Index("usage_by_key", "key_id", "at_ms"),
    Index("usage_by_request", "request_id"),
)

# What budgets read at admission; updated in one transaction with `usage`.
spend = Table(
    "spend",
    metadata,
    Column("key_id", String(32), primary_key=True),
    Column("day", Integer, primary_key=True, autoincrement=False),  # days since 1970-01-01, UTC
    Column("usd", Double, nullable=False),
)

# What the API keeps for its clients (antiphon.state). `lease_until_ms`: see antiphon/state/responses.py.
responses = Table(
    "responses",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("account", String(64), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
    Column("lease_until_ms", BigInteger, nullable=False),
    Column("status", String(16), nullable=False),
    Column("conversation_id", String(64)),
    Column("body", LargeBinary, nullable=False),  # JSON
    Column("input", LargeBinary, nullable=False),  # JSON, compressed
    Column("history", LargeBinary, nullable=False),  # JSON, compressed
    Column("found", LargeBinary),  # JSON, compressed
    Column("num_bytes", BigInteger, nullable=False),
    Index("responses_by_expiry", "expires_at_ms"),
    Index("responses_by_age", "created_at_ms"),
    Index("responses_by_size", "num_bytes"),
)

response_items = Table(
    "response_items",
    metadata,
    Column("response_id", String(64), primary_key=True),
    Column("item_id", String(128), primary_key=True),
    Column("account", String(64), nullable=False),
    Index("response_items_by_id", "item_id", "account"),
)

conversations = Table(
    "conversations",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("account", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),  # Unix seconds
    Column("metadata", LargeBinary, nullable=False),  # JSON
    Column("taken_until_ms", BigInteger, nullable=False, server_default="0"),  # see antiphon/state/claims.py
    Column("taken_by", String(32)),
)

conversation_items = Table(
    "conversation_items",
    metadata,
    Column("conversation_id", String(64), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("item_id", String(128), nullable=False),
    Column("item", LargeBinary, nullable=False),  # JSON
    Index("conversation_items_by_id", "conversation_id", "item_id"),
)

stored_completions = Table(
    "stored_completions",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("account", String(64), nullable=False),
    Column("model", String(256), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
    Column("metadata", LargeBinary, nullable=False),  # JSON
    Column("body", LargeBinary, nullable=False),  # JSON
    Column("messages", LargeBinary, nullable=False),  # JSON, compressed
    Column("num_bytes", BigInteger, nullable=False),
    Index("stored_completions_by_account", "account", "created_at_ms", "id"),
    Index("stored_completions_by_size", "num_bytes"),
    Index("stored_completions_by_age", "created_at_ms"),
    Index("stored_completions_by_expiry", "expires_at_ms"),
)

# Objects that an upstream made for a request that was sent on to it (antiphon.state.upstream_objects).
upstream_objects = Table(
    "upstream_objects",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("upstream", String(200), nullable=False),  # its name in the settings
    Column("account", String(64), nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
    Index("upstream_objects_by_expiry", "expires_at_ms"),
)

# Files (antiphon.files): what clients upload, and what the server makes for them. Files with the same content share a blob.
blobs = Table(
    "blobs",
    metadata,
    Column("digest", String(64), primary_key=True),  # SHA-256 of the content, hex
    Column("location", String(64), nullable=False, unique=True),  # where the storage keeps it
    Column("num_bytes", BigInteger, nullable=False),
    Column("num_references", BigInteger, nullable=False),
)

files = Table(
    "files",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("account", String(64), nullable=False),
    Column("filename", String(255), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger),  # NULL: kept until it is deleted
    Index("files_by_account", "account", "created_at_ms", "id"),
    Index("files_by_expiry", "expires_at_ms"),
)

# What each account keeps; the empty name is all accounts together. Changed in one transaction with `files` and `upload_parts`.
file_usage = Table(
    "file_usage",
    metadata,
    Column("account", String(64), primary_key=True),
    Column("num_bytes", BigInteger, nullable=False),
    Column("num_files", BigInteger, nullable=False),
)

uploads = Table(
    "uploads",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("account", String(64), nullable=False),
    Column("filename", String(255), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("mime_type", String(255), nullable=False),
    Column("num_bytes", BigInteger, nullable=False),  # announced
    Column("status", String(16), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
    Column("num_parts", Integer, nullable=False),
    Column("num_held_bytes", BigInteger, nullable=False),
    Column("file_id", String(64)),
    Column("file_expires_after_s", BigInteger),
    Index("uploads_by_expiry", "status", "expires_at_ms"),
)

# Batches (antiphon.batches). `detail` is what nothing asks for by itself; `batch_results` is the journal of finished lines.
batches = Table(
    "batches",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("account", String(64), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
    Column("status", String(16), nullable=False),
    Column("cancelling_at_ms", BigInteger),
    Column("owner", String(64)),  # the process that works on it
    Column("lease_until_ms", BigInteger, nullable=False),
    Column("num_total", Integer, nullable=False),
    Column("num_completed", Integer, nullable=False),
    Column("num_failed", Integer, nullable=False),
    Column("detail", LargeBinary, nullable=False),  # JSON
    Index("batches_by_account", "account", "created_at_ms", "id"),
    Index("batches_by_status", "status", "lease_until_ms"),
)

batch_results = Table(
    "batch_results",
    metadata,
    Column("batch_id", String(64), primary_key=True),
    Column("line", Integer, primary_key=True, autoincrement=False),  # of the input file, from 1
    Column("is_error", Boolean, nullable=False),
    Column("result", LargeBinary, nullable=False),  # a line of the output file, compressed
)

upload_parts = Table(
    "upload_parts",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("upload_id", String(64), nullable=False),
    Column("location", String(64), nullable=False, unique=True),
    Column("num_bytes", BigInteger, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Index("upload_parts_by_upload", "upload_id"),
)

# Events that are waiting to be sent to an application (antiphon.webhooks).
webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("event_id", String(64), primary_key=True),
    Column("url", String(1000), primary_key=True),
    Column("body", LargeBinary, nullable=False),  # JSON, the bytes that are signed
    Column("created_at_ms", BigInteger, nullable=False),
    Column("next_at_ms", BigInteger, nullable=False),
    Column("num_attempts", Integer, nullable=False),
    Index("webhook_deliveries_by_time", "next_at_ms"),
)

# Vector stores (antiphon.vector_stores): what is in them; the chunks and vectors are in one SQLite file for each store.
vector_stores = Table(
    "vector_stores",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("account", String(64), nullable=False),
    Column("name", String(256), nullable=False),
    Column("description", String(2000)),
    Column("metadata", LargeBinary, nullable=False),  # JSON
    Column("model", String(256), nullable=False),  # that makes its vectors
    Column("created_at_ms", BigInteger, nullable=False),
    Column("last_active_at_ms", BigInteger, nullable=False),
    Column("expires_after_days", Integer),
    Column("expires_at_ms", BigInteger),  # NULL: kept until it is deleted
    Index("vector_stores_by_account", "account", "created_at_ms", "id"),
    Index("vector_stores_by_expiry", "expires_at_ms"),
)

vector_store_files = Table(
    "vector_store_files",
    metadata,
    Column("vector_store_id", String(64), primary_key=True),
    Column("file_id", String(64), primary_key=True),
    Column("account", String(64), nullable=False),
    Column("filename", String(255), nullable=False),
    Column("batch_id", String(64)),
    Column("status", String(16), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("attributes", LargeBinary, nullable=False),  # JSON
    Column("chunk_tokens", Integer, nullable=False),
    Column("chunk_overlap", Integer, nullable=False),
    Column("usage_bytes", BigInteger, nullable=False),
    Column("error_code", String(32)),
    Column("error_message", String(2000)),
    Column("leased_until_ms", BigInteger, nullable=False),  # until then one process reads it
    Index("vector_store_files_by_store", "vector_store_id", "created_at_ms", "file_id"),
    Index("vector_store_files_by_status", "status", "leased_until_ms"),
    Index("vector_store_files_by_file", "file_id"),
    Index("vector_store_files_by_batch", "batch_id"),
)

vector_store_batches = Table(
    "vector_store_batches",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("vector_store_id", String(64), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("is_cancelled", Boolean, nullable=False),
    Index("vector_store_batches_by_store", "vector_store_id"),
)
