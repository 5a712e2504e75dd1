"""What the work on any batch of a process needs."""

import asyncio

import msgspec

from antiphon.accounts import Accounts
from antiphon.batches import BatchSettings, BatchStore
from antiphon.files import FileStore
from antiphon.server.batches.lines import LineRunner
from antiphon.server.batches.upstream_batches import UpstreamBatches
from antiphon.server.request.access import Access
from antiphon.webhooks import WebhookSender


class BatchTools(msgspec.Struct, frozen=True):
    """``slots`` bounds the requests in flight of all batches together; ``max_line_bytes`` one request."""

    settings: BatchSettings
    accounts: Accounts
    store: BatchStore
    files: FileStore
    lines: LineRunner
    access: Access
    upstreams: UpstreamBatches
    slots: asyncio.Semaphore
    max_line_bytes: int
    webhooks: WebhookSender
