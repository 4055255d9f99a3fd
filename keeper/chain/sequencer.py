"""Whether the roll-up's sequencer runs, by the feed that says so on the roll-up itself."""

from __future__ import annotations

from collections.abc import Sequence

from keeper.abi import interface
from keeper.errors import BadData
from keeper.model import Address, Block, Hash, Head, Log, Read, Skip, Uptime, Watch
from keeper.ports import Alerter, Client

_ABI = interface("uptime_feed")
_UP, _DOWN = 0, 1  # AggregatorV3Interface.latestRoundData of Chainlink's L2 sequencer uptime feeds


class SequencerFeed:
    """Mirrors an uptime feed by reading it at every head. Implements `ports.Mirror` and `ports.UptimeFeed`.

    ``latestRoundData``: the answer is 0 while the sequencer is up and 1 while it is down, `startedAt` the time of that
    change, 0 before there was any. A feed that reverts, or says anything else, knows nothing: it is never up then.
    """

    name = "chain.sequencer_feed"  # no market or venue can be called that
    history_from: int | None = None
    dirty = False

    def __init__(self, feed: Address, grace: int, alerter: Alerter) -> None:
        """`grace` in seconds."""
        self._grace = grace
        self._alerter = alerter
        self._reads = (Read(feed, _ABI.encode("latestRoundData")),)
        self._feed = feed
        self._read_at: Hash | None = None
        self._said = Uptime(up=True, grace=grace)

    def uptime(self, head: Head) -> Uptime:
        """What the feed says at `head`."""
        if self._read_at != head.hash:
            return self._unknown(f"the feed has not been read at block {head.number}")
        return self._said

    def watch(self) -> Watch:
        """No logs: the answer is one word, read anyway."""
        return Watch(frozenset(), frozenset())

    def reads(self) -> tuple[Read, ...]:
        """The feed's newest round."""
        return self._reads

    def observe(self, head: Head, answers: Sequence[bytes | None]) -> None:
        """Take the newest round, and tell a person when it is another than before."""
        before, self._said, self._read_at = self._said, self._judge(answers), head.hash
        if self._said.up is before.up:
            return
        if self._said.up:
            text = f"the sequencer is up again; nothing is sent for {self._grace} s after"
        elif self._said.up is None:
            text = f"whether the sequencer is up is unknown, so nothing is sent: {self._said.unknown}"
        else:
            text = "the sequencer is down, so nothing is sent"
        self._alerter.alert("sequencer", f"{text} (block {head.number})", severe=not self._said.up)

    def _judge(self, answers: Sequence[bytes | None]) -> Uptime:
        answer = answers[0] if len(answers) == 1 else None
        if answer is None:
            return self._unknown(f"the feed {self._feed} does not answer latestRoundData()")
        try:
            _, status, since, _, _ = _ABI.decode("latestRoundData", answer)
        except BadData as error:
            return self._unknown(str(error))
        if status not in (_UP, _DOWN):
            return self._unknown(f"the feed {self._feed} says {status}, where 0 is up and 1 is down")
        if not since:
            return self._unknown(f"the feed {self._feed} has not begun a round yet")
        return Uptime(up=status == _UP, since=since, grace=self._grace)

    def _unknown(self, why: str) -> Uptime:
        return Uptime(up=None, grace=self._grace, unknown=why)

    # ------------------------------------------------------------------------------------------ nothing to keep

    def apply(self, block: Block) -> None:
        """Nothing: what was read belongs to one block."""

    def replay(self, logs: Sequence[Log]) -> None:
        """Nothing."""

    def rewind(self, number: int) -> None:
        """Nothing."""

    def distrust(self, reason: str) -> None:
        """Unknown until it is read again."""
        self._read_at = None

    async def load(self, client: Client, head: Head) -> None:
        """Nothing: it is read at every head."""

    async def refresh(self, client: Client, head: Head) -> None:
        """Nothing."""

    async def audit(self, client: Client, head: Head, sample: int) -> Skip | None:
        """Nothing to compare: it is the chain's own view."""
        return None

    def snapshot(self) -> bytes:
        """Nothing."""
        return b""

    def restore(self, data: bytes) -> None:
        """Nothing."""
