"""Sends webhooks: each event to each address that wants it, again and again until it arrives or is given up."""

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Mapping

import aiohttp
import msgspec
import structlog
from sqlalchemy.exc import SQLAlchemyError

from antiphon.webhooks.deliveries import Deliveries, Delivery, now_ms
from antiphon.webhooks.settings import EventType, WebhookEndpoint, WebhookSettings
from antiphon.webhooks.signature import headers_of, signing_key

_SUCCESS = range(200, 300)
_AT_ONCE = 16
_LOOK_AGAIN_S = 30.0
"""How often deliveries of other servers, which stopped before they sent them, are looked for."""
_LEASE_MARGIN_S = 30.0
_log = structlog.get_logger("antiphon.webhooks")


class WebhookStatistics(msgspec.Struct, frozen=True):
    """Attempts of this process, by result."""

    delivered_total: int
    failures_total: int
    given_up_total: int


class WebhookSender:
    """Belongs to one event loop. ``start`` begins a task that ``aclose`` ends."""

    def __init__(
        self, settings: WebhookSettings, deliveries: Deliveries, environ: Mapping[str, str] = os.environ
    ) -> None:
        self._settings = settings
        self._deliveries = deliveries
        self._keys = {endpoint.url: signing_key(endpoint.secret(environ)) for endpoint in settings.endpoints}
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._num_delivered = self._num_failed = self._num_given_up = 0

    @property
    def is_on(self) -> bool:
        return bool(self._settings.endpoints)

    def start(self) -> None:
        if self.is_on:
            self._task = asyncio.create_task(self._run(), name="antiphon-webhooks")

    async def announce(self, event: EventType, object_id: str, key: str) -> None:
        """Report that something of the API key with the name ``key`` has ended. Never fails; a fault is logged."""
        wanting = [endpoint for endpoint in self._settings.endpoints if endpoint.wants(event, key)]
        if not wanting:
            return
        try:
            if not await self._deliveries.add([_delivery(event, object_id, endpoint) for endpoint in wanting]):
                _log.error("webhook_dropped", event_type=event, object_id=object_id, reason="too many wait")
        except (SQLAlchemyError, OSError):
            _log.exception("webhook_not_kept", event_type=event, object_id=object_id)
        self._news.set()

    def statistics(self) -> WebhookStatistics:
        """Return counts without waiting."""
        return WebhookStatistics(self._num_delivered, self._num_failed, self._num_given_up)

    async def aclose(self) -> None:
        """End the task. What was not sent is sent by the next server over this database."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=self._settings.timeout_s)
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
            while True:
                self._news.clear()
                try:
                    await self._send_due(session)
                except Exception:  # noqa: BLE001 - whatever failed is tried again with the next look
                    _log.exception("webhooks_not_sent")
                await self._wait()

    async def _wait(self) -> None:
        due = await self._deliveries.next_at_ms()
        wait_s = _LOOK_AGAIN_S if due is None else min(max((due - now_ms()) / 1000, 0.0), _LOOK_AGAIN_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._news.wait()

    async def _send_due(self, session: aiohttp.ClientSession) -> None:
        lease_s = self._settings.timeout_s + _LEASE_MARGIN_S
        while claimed := await self._deliveries.claim(_AT_ONCE, lease_s):
            await asyncio.gather(*(self._send(session, delivery) for delivery in claimed))

    async def _send(self, session: aiohttp.ClientSession, delivery: Delivery) -> None:
        key = self._keys.get(delivery.url)
        if key is None:
            # The address was removed from the settings: nothing may be sent there any more.
            await self._deliveries.remove(delivery)
            return
        reason = await self._attempt(session, delivery, key)
        if reason is None:
            await self._deliveries.remove(delivery)
            self._num_delivered += 1
            return
        self._num_failed += 1
        waited_s = self._settings.backoff_s * 2.0 ** min(delivery.num_attempts, 30)
        wait_s = min(waited_s, self._settings.max_backoff_s)
        age_s = (now_ms() - delivery.created_at_ms) / 1000
        fields = {"url": delivery.url, "event_id": delivery.event_id, "reason": reason}
        if age_s + wait_s > self._settings.give_up_s:
            _log.error("webhook_given_up", attempts=delivery.num_attempts + 1, **fields)
            await self._deliveries.remove(delivery)
            self._num_given_up += 1
        else:
            _log.warning("webhook_failed", again_in_s=wait_s, **fields)
            await self._deliveries.failed(delivery, wait_s)

    async def _attempt(self, session: aiohttp.ClientSession, delivery: Delivery, key: bytes) -> str | None:
        """Return why an attempt failed, None if the event arrived. A redirect is a failure: the address is not a listed one."""
        signed = headers_of(delivery.event_id, int(time.time()), delivery.body, key)
        headers = {"content-type": "application/json", "user-agent": "Antiphon", **signed}
        try:
            async with session.post(delivery.url, data=delivery.body, headers=headers, allow_redirects=False) as answer:
                return None if answer.status in _SUCCESS else f"status {answer.status}"
        except TimeoutError:
            return f"no answer within {self._settings.timeout_s:g} s"
        except (aiohttp.ClientError, OSError) as error:
            return f"no connection ({type(error).__name__})"


def _delivery(event: EventType, object_id: str, endpoint: WebhookEndpoint) -> Delivery:
    now = now_ms()
    event_id = "evt_" + secrets.token_hex(16)
    value = {
        "id": event_id,
        "object": "event",
        "created_at": now // 1000,
        "type": event,
        "data": {"id": object_id},
    }
    return Delivery(event_id, endpoint.url, msgspec.json.encode(value), now, now)
