"""The parts of one server process that work on batches."""

import asyncio
import secrets

from antiphon.accounts import Accounts
from antiphon.backends.base import ForwardingBackend
from antiphon.batches import BatchSettings, BatchStore
from antiphon.files import FileStore
from antiphon.server.batches.lines import LineRunner
from antiphon.server.batches.runner import BatchRunner
from antiphon.server.batches.tools import BatchTools
from antiphon.server.batches.upstream_batches import UpstreamBatches
from antiphon.server.request.access import Access
from antiphon.server.request.headers import StandardHeaders
from antiphon.webhooks import WebhookSender


class BatchParts:
    """Puts them together. ``max_line_bytes`` bounds the body of one request."""

    def __init__(
        self,
        settings: BatchSettings,
        accounts: Accounts,
        *,
        access: Access,
        files: FileStore,
        headers: StandardHeaders,
        upstreams: ForwardingBackend | None,
        webhooks: WebhookSender,
        max_line_bytes: int,
    ) -> None:
        self.settings = settings
        self.store = BatchStore(accounts.engine, secrets.token_hex(16), lease_s=settings.lease_s)
        self.runner = BatchRunner(
            BatchTools(
                settings=settings,
                accounts=accounts,
                store=self.store,
                files=files,
                lines=LineRunner(accounts, headers, settings.price_factor),
                access=access,
                upstreams=UpstreamBatches(upstreams),
                slots=asyncio.Semaphore(settings.concurrency),
                max_line_bytes=max_line_bytes,
                webhooks=webhooks,
            )
        )
