"""Alerts to people's channels through apprise: from a bounded queue in a thread per channel, never from the loop.

A channel that hangs, fails or is slow harms only itself: what it could not take is counted and logged without its URL.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import apprise
import structlog

from keeper.config import Alerts, Channel
from keeper.errors import ConfigError
from keeper.ops.doctor import Finding

log = structlog.get_logger("keeper")

# What is said about money. A dry run moves none, so nobody is told.
MONEY = frozenset({"liquidation_done", "attempt_failed"})
QUEUE = 100  # messages one channel may be behind
MINUTE = 60.0
HANGS = 20.0  # seconds after which a channel that has not finished a message counts as failed

Send = Callable[[str, str, bool], bool]  # title, body, severe -> taken by the channel


@dataclass(slots=True)
class _Told:
    """What one channel is to be told; every field is guarded by `changed`."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    waiting: deque[tuple[str, bool]] = field(default_factory=deque)  # body, severe
    accepted: deque[float] = field(default_factory=deque)  # when, within the last minute
    left_out: Counter[str] = field(default_factory=Counter)  # alert name -> how many
    left_out_severe: bool = False
    busy_since: float | None = None
    stalled: bool = False  # the present message has been counted as failed
    closing: bool = False


class Lane:
    """One channel: at most so many messages a minute, and then one line that counts the rest."""

    def __init__(
        self,
        label: str,
        send: Send,
        *,
        title: str,
        per_minute: int,
        failed: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`label` is safe to show; `failed` is called from any thread, once for each message that was not delivered."""
        self.label = label
        self._send = send
        self._title = title
        self._per_minute = per_minute
        self._failed = failed
        self._clock = clock
        self._told = _Told()
        self.ended: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name=f"alerts {label}", daemon=True)
        self._thread.start()

    def put(self, name: str, body: str, *, severe: bool) -> None:
        """Take a message, or count it; never blocks for longer than a few assignments take."""
        told = self._told
        with told.changed:
            now = self._clock()
            self._watch(now)
            if not self._thread.is_alive() or len(told.waiting) >= QUEUE:
                self._failed()
                return
            self._forget(now)
            # Once something was left out, the summary speaks first.
            if told.left_out or len(told.accepted) >= self._per_minute:
                told.left_out[name] += 1
                told.left_out_severe |= severe
            else:
                told.accepted.append(now)
                told.waiting.append((body, severe))
            told.changed.notify()

    def close(self) -> None:
        """Send what is waiting, then end."""
        with self._told.changed:
            self._told.closing = True
            self._told.changed.notify()

    def _run(self) -> None:
        while (message := self._next()) is not None:
            taken = self._send(self._title, *message)
            with self._told.changed:
                stalled, self._told.busy_since, self._told.stalled = self._told.stalled, None, False
            if not taken and not stalled:
                self._fail("it was refused, or nobody answered")
        with suppress(InvalidStateError, RuntimeError):  # whoever waited for it has gone
            self.ended.set_result(None)

    def _next(self) -> tuple[str, bool] | None:
        told = self._told
        with told.changed:
            while True:
                now = self._clock()
                message = told.waiting.popleft() if told.waiting else self._summary(now)
                if message is not None:
                    told.busy_since = now
                    return message
                if told.closing:
                    return None
                told.changed.wait(max(told.accepted[0] + MINUTE - now, 0.01) if told.left_out else None)

    def _summary(self, now: float) -> tuple[str, bool] | None:
        """The one line after a storm, as soon as the minute lets it pass, or at the end."""
        told = self._told
        self._forget(now)
        if not told.left_out or (len(told.accepted) >= self._per_minute and not told.closing):
            return None
        listed = ", ".join(f"{name} ×{count}" for name, count in told.left_out.most_common())
        severe, count = told.left_out_severe, told.left_out.total()
        told.left_out.clear()
        told.left_out_severe = False
        told.accepted.append(now)
        return (
            f"{count} more alerts were held back, because there were too many: {listed}; the log has them all",
            severe,
        )

    def _forget(self, now: float) -> None:
        while self._told.accepted and now - self._told.accepted[0] >= MINUTE:
            self._told.accepted.popleft()

    def _watch(self, now: float) -> None:
        told = self._told
        if told.busy_since is not None and not told.stalled and now - told.busy_since > HANGS:
            told.stalled = True
            self._fail(f"it has not finished a message for {now - told.busy_since:.0f} s")

    def _fail(self, why: str) -> None:
        self._failed()
        log.warning("alert.undelivered", channel=self.label, reason=why)


class Channels:
    """All channels of a configuration. `put` is given to `LogAlerter` as where alerts go further."""

    def __init__(self, routes: Sequence[tuple[Lane, bool]], *, mode: str, redact: Callable[[str], str]) -> None:
        """`routes`: each lane, and whether it gets severe alerts only; `redact` takes secrets out of a text."""
        self._routes = tuple(routes)
        self._dry = mode == "dry"
        self._redact = redact

    @classmethod
    def open(
        cls, table: Alerts, *, mode: str, chain_id: int, redact: Callable[[str], str], failed: Callable[[], None]
    ) -> Channels:
        """Every configured channel, each with its thread; raises ConfigError for a URL that apprise does not know."""
        plugins = [(label, load(channel, label), severe) for channel, label, severe in named(table)]
        routes = [
            (
                Lane(
                    label,
                    sender(plugin),
                    title=f"keeper on chain {chain_id}",
                    per_minute=table.max_per_minute,
                    failed=failed,
                ),
                severe,
            )
            for label, plugin, severe in plugins
        ]
        return cls(routes, mode=mode, redact=redact)

    def put(self, name: str, message: str, severe: bool) -> None:
        """Hand an alert to every channel that wants it. Never blocks, never raises."""
        if self._dry and name in MONEY:
            return
        body = ("[dry run] " if self._dry else "") + self._redact(message)
        for lane, only_severe in self._routes:
            if severe or not only_severe:
                lane.put(name, body, severe=severe)

    async def close(self, limit: float) -> None:
        """Send what is waiting, for at most `limit` seconds; a channel that hangs is left behind."""
        for lane, _ in self._routes:
            lane.close()
        ends = [asyncio.wrap_future(lane.ended) for lane, _ in self._routes]
        if ends:
            _, late = await asyncio.wait(ends, timeout=limit)
            for end in late:
                end.cancel()
            if late:
                log.warning("alert.unfinished", channels=len(late))


async def check(table: Alerts, *, notify: bool, limit: float = HANGS) -> Finding:
    """The doctor's question: whether every channel is understood and, when it is asked to `notify`, takes a message.

    Raises ConfigError for a URL that apprise does not know. `limit` is in seconds.
    """
    plugins = [(label, load(channel, label)) for channel, label, _ in named(table)]
    if not plugins:
        return Finding.ok("no channel is configured: alerts are only logged")
    if not notify:
        return Finding.ok(f"{len(plugins)} channels are understood; --notify sends each a test message")
    refused: Counter[str] = Counter()
    lanes = [
        Lane(label, sender(plugin), title="keeper", per_minute=1, failed=partial(refused.update, [label]))
        for label, plugin in plugins
    ]
    for lane in lanes:
        lane.put("test", "a test message that `keeper doctor --notify` was asked for", severe=False)
        lane.close()
    ends = {asyncio.wrap_future(lane.ended): lane.label for lane in lanes}
    _, late = await asyncio.wait(ends, timeout=limit)
    for end in late:
        end.cancel()
        refused[ends[end]] += 1
    if refused:
        return Finding.fail(
            f"{', '.join(sorted(refused))} did not take a test message", "mend the URL, or the service it names"
        )
    return Finding.ok(f"{len(plugins)} channels took a test message")


def named(table: Alerts) -> list[tuple[Channel, str, bool]]:
    """Each channel with a name that can be shown and whether it gets severe alerts only."""
    return [
        (channel, f"{key}[{index}] ({channel.kind})", severe)
        for key, channels, severe in (
            ("channels", table.channels, False),
            ("severe_channels", table.severe_channels, True),
        )
        for index, channel in enumerate(channels)
    ]


def load(channel: Channel, label: str) -> Any:
    """The channel's apprise plugin; raises ConfigError, which does not repeat the URL, when there is none."""
    # Its log lines carry URLs, and what failed is logged here.
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    plugin = apprise.Apprise.instantiate(channel.reveal())
    if plugin is None:
        raise ConfigError(
            f"alerts.{label} is not a URL that apprise understands: look up the service's form in its documentation"
        )
    return plugin


def sender(plugin: Any) -> Send:
    """How a plugin is told. apprise turns every error of a plugin into a no."""
    desk = apprise.Apprise()
    desk.add(plugin)

    def send(title: str, body: str, severe: bool) -> bool:
        kind = apprise.NotifyType.FAILURE if severe else apprise.NotifyType.INFO
        return bool(desk.notify(body=body, title=title, notify_type=kind))

    return send
