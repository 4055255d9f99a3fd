"""Alert channels without a network: what is let through, counted, summed up, and kept away from the loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keeper.config import Channel, load
from keeper.config.describe import describe
from keeper.errors import ConfigError
from keeper.ops.alerts import LogAlerter
from keeper.ops.channels import QUEUE, Channels, Lane, named
from keeper.ops.channels import load as load_channel
from keeper.ops.metrics import Metrics
from keeper.ops.redact import Redactor

# apprise imports a module of the standard library that Python 3.13 drops.
pytestmark = [pytest.mark.unit, pytest.mark.filterwarnings("ignore:.imghdr:DeprecationWarning")]

SECRET = "T0p5ecretTokenOfTheChannel"
MINIMAL = """
[chain]
id = 1
endpoints = ["ws://127.0.0.1:8546"]
[tokens]
wrapped_native = "0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2"
[markets.aave]
protocol = "aave_v3"
address = "0x2f39d218133AFaB8F2B819B1066c7E434Ad94E9e"
start_block = 1
"""


class Service:
    """What a channel reaches: it keeps what it is sent, fails when told to, and hangs while `open` is not set."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bool]] = []
        self.takes = True
        self.open = threading.Event()
        self.open.set()
        self.failures = 0

    def send(self, title: str, body: str, severe: bool) -> bool:
        assert title == "keeper"
        assert self.open.wait(30)
        if self.takes:
            self.got.append((body, severe))
        return self.takes

    def failed(self) -> None:
        self.failures += 1


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def lane(service: Service, clock: Callable[[], float] = time.monotonic, per_minute: int = 5) -> Lane:
    return Lane(
        "channels[0] (test)", service.send, title="keeper", per_minute=per_minute, failed=service.failed, clock=clock
    )


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def channels(*routes: tuple[Lane, bool], mode: str = "live", secret: str = SECRET) -> Channels:
    return Channels(routes, mode=mode, redact=Redactor([secret]).text)


async def test_a_storm_ends_in_one_line() -> None:
    """Of 200 alerts in a minute five arrive at once and one line counts the other 195, by name, when the minute is
    over; then all goes on."""
    service, clock = Service(), Clock()
    one = lane(service, clock)
    for index in range(200):
        one.put("node_lost" if index % 2 else "price_unknown", f"alert {index}", severe=index == 77)
    until(lambda: len(service.got) == 5)
    clock.now += 61
    one.put("started", "the next", severe=False)
    until(lambda: len(service.got) == 6)
    summary, severe = service.got[-1]
    assert "196 more alerts were held back" in summary
    assert "node_lost ×98, price_unknown ×97, started ×1" in summary
    assert severe, "a severe alert among those held back makes the summary severe"
    one.put("started", "after the storm", severe=False)
    until(lambda: service.got[-1] == ("after the storm", False))
    assert service.failures == 0


async def test_what_was_held_back_is_summed_up_at_the_end() -> None:
    """A keeper that stops in the middle of a storm still says how much was held back."""
    service, clock = Service(), Clock()
    one = lane(service, clock, per_minute=1)
    for index in range(4):
        one.put("breaker_open", f"breaker {index}", severe=True)
    await channels((one, False)).close(5)
    assert [body.split(":")[0] for body, _ in service.got] == [
        "breaker 0",
        "3 more alerts were held back, because there were too many",
    ]


async def test_a_hanging_channel_holds_up_nobody() -> None:
    """A thousand puts into a channel that hangs return at once, the other channel gets its messages, what does not fit
    is counted, and closing keeps to its limit."""
    stuck, well = Service(), Service()
    stuck.open.clear()
    both = channels((lane(stuck, per_minute=10_000), False), (lane(well, per_minute=10_000), False))
    began = time.monotonic()
    for index in range(1_000):
        both.put("node_lost", f"alert {index}", False)
        if index % 50 == 0:
            count = index
            await asyncio.to_thread(until, lambda count=count: len(well.got) > count)  # type: ignore[misc]  # mypy: lambda default
    assert time.monotonic() - began < 3
    assert stuck.got == []
    assert 1_000 - QUEUE - 1 <= stuck.failures <= 1_000 - QUEUE
    began = time.monotonic()
    await both.close(0.2)
    assert 0.15 < time.monotonic() - began < 2
    assert len(well.got) == 1_000
    stuck.open.set()


async def test_a_channel_that_never_finishes_counts_as_failed_once() -> None:
    """A message that takes longer than it may is an undelivered one, counted once however long it takes."""
    service, clock = Service(), Clock()
    service.open.clear()
    one = lane(service, clock)
    one.put("started", "first", severe=False)
    until(lambda: one._told.busy_since is not None)
    clock.now += 25
    one.put("stopped", "second", severe=False)
    one.put("stopped", "third", severe=False)
    assert service.failures == 1
    service.open.set()
    until(lambda: len(service.got) == 3)
    assert service.failures == 1


async def test_failures_are_counted_and_the_next_message_is_tried() -> None:
    """A channel that refuses is counted for each message and asked again for the next."""
    service = Service()
    service.takes = False
    one = lane(service)
    for index in range(3):
        one.put("node_lost", f"alert {index}", severe=False)
    until(lambda: service.failures == 3)
    service.takes = True
    one.put("node_back", "back", severe=False)
    until(lambda: service.got == [("back", False)])


async def test_severities_modes_and_money() -> None:
    """A channel for severe alerts hears nothing else; a dry run says that it is one, and is silent about money."""
    every, severe = Service(), Service()
    both = channels((lane(every), False), (lane(severe), True), mode="dry")
    both.put("liquidation_done", "net 1 ETH", False)
    both.put("attempt_failed", "reverted", False)
    both.put("market_back", "aave is back", False)
    both.put("node_lost", f"all gone, see https://user:{SECRET}@node.example/v3/{SECRET}", True)
    await both.close(5)
    assert [body for body, _ in every.got] == [
        "[dry run] aave is back",
        "[dry run] all gone, see https://***@node.example/***",
    ]
    assert [body for body, _ in severe.got] == ["[dry run] all gone, see https://***@node.example/***"]
    live = Service()
    one = channels((lane(live), False))
    one.put("liquidation_done", "net 1 ETH", False)
    await one.close(5)
    assert live.got == [("net 1 ETH", False)]


class Log:
    def info(self, event: str, **fields: Any) -> None: ...
    def warning(self, event: str, **fields: Any) -> None: ...
    def error(self, event: str, **fields: Any) -> None: ...


def alerter(got: list[str], clock: Clock) -> LogAlerter:
    from prometheus_client import CollectorRegistry

    metrics = Metrics(CollectorRegistry(), version="0", mode="live", markets={})
    found = LogAlerter(Log(), metrics, repeat_after=600, clock=clock)
    found.deliver = lambda name, message, severe: got.append(message)
    return found


def test_the_last_word_is_the_present_state() -> None:
    """An endpoint that comes and goes is told each way, so that nobody goes to bed with the wrong news; the same word
    twice is not."""
    got: list[str] = []
    one = alerter(got, Clock())
    for name in ("node_lost", "node_lost", "node_back", "node_lost", "node_lost", "node_back"):
        one.alert(name, name)
    assert got == ["node_lost", "node_back", "node_lost", "node_back"]


def test_events_differ_by_their_numbers() -> None:
    """Two liquidations that differ in their amounts only are two; two states that do are one, and how often is said."""
    got: list[str] = []
    clock = Clock()
    one = alerter(got, clock)
    one.alert("liquidation_done", "net 1 ETH")
    one.alert("liquidation_done", "net 2 ETH")
    one.alert("stale", "block 1")
    one.alert("stale", "block 2")
    clock.now += 601
    one.alert("stale", "block 3")
    assert got == ["net 1 ETH", "net 2 ETH", "block 1", "block 3 (1 more times since it was last said)"]


# ------------------------------------------------------------------------------------------- configuration


def test_channels_are_masked_everywhere(tmp_path: Path) -> None:
    """A URL's credentials are in no repr, no `config show`, no error; the redactor knows each part of them."""
    url = f"tgram://123456789:{SECRET}/-100123/?thread=1"
    (tmp_path / "channels").write_text(f"{url}\njsons://hooks.example/{SECRET}x?to=a,b\n")
    path = tmp_path / "keeper.toml"
    path.write_text(MINIMAL + '[alerts]\nchannels_file = "channels"\n')
    config = load(path, {"KEEPER__ALERTS__SEVERE_CHANNELS": f"slack://A/{SECRET}y/C json://127.0.0.1:80/x"})
    assert [(label, severe) for _, label, severe in named(config.alerts)] == [
        ("channels[0] (tgram)", False),
        ("channels[1] (jsons)", False),
        ("severe_channels[0] (slack)", True),
        ("severe_channels[1] (json)", True),
    ]
    assert config.alerts.channels[0].reveal() == url
    shown = repr(config) + str(describe(config)) + config.model_dump_json()
    assert SECRET not in shown
    assert "tgram://********" in shown
    redact = Redactor(config.secrets()).text
    assert redact("127.0.0.1 and hooks.example are no secrets") == "127.0.0.1 and hooks.example are no secrets"
    for text in (url, SECRET, f"POST /{SECRET}x?to=a,b failed", f"no route to {SECRET}y"):
        assert SECRET not in redact(text)


@pytest.mark.parametrize("wrong", ["slack", f"not a url {SECRET}", "://x", ""])
def test_a_wrong_channel_is_refused_without_being_repeated(tmp_path: Path, wrong: str) -> None:
    """What is no URL is an error of the configuration; its text is not in it."""
    path = tmp_path / "keeper.toml"
    path.write_text(MINIMAL + f"[alerts]\nchannels = ['{wrong}']\n")
    with pytest.raises(ConfigError, match=r"alerts.channels\[0\]: must be an apprise URL") as caught:
        load(path, {})
    assert SECRET not in str(caught.value)


def test_a_scheme_that_apprise_does_not_know_is_refused_without_being_repeated() -> None:
    """The keeper does not start with a channel that will never be told anything."""
    with pytest.raises(ConfigError, match=r"alerts.channels\[0\] \(nosuch\)") as caught:
        load_channel(Channel(f"nosuch://{SECRET}"), "channels[0] (nosuch)")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(("written", "value"), [("1.05", 105 * 10**16), (1.02, 102 * 10**16), (2, 2 * 10**18)])
def test_health_factors_are_exact(tmp_path: Path, written: Any, value: int) -> None:
    """A decimal is taken as it is written, not as a float stores it."""
    path = tmp_path / "keeper.toml"
    path.write_text(MINIMAL + f"[alerts]\nnear_health_factor = {written!r}\n")
    assert load(path, {}).alerts.near_health_factor == value


@pytest.mark.parametrize("written", ["1", "0.99", '"high"', "true", "nan"])
def test_nonsense_health_factors_are_refused(tmp_path: Path, written: str) -> None:
    """It must be a number above one: at one a position is liquidatable, not near it."""
    path = tmp_path / "keeper.toml"
    path.write_text(MINIMAL + f"[alerts]\nnear_health_factor = {written}\n")
    with pytest.raises(ConfigError, match=r"alerts.near_health_factor"):
        load(path, {})
