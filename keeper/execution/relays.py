"""Private relays and builders: signed JSON-RPC over HTTP, several at once. A 200 means that they listened, no more."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, Protocol, Self
from uuid import uuid4

import aiohttp
import orjson
import structlog
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_utils.crypto import keccak

from keeper.chain.connection import masked
from keeper.chain.refusals import Kind, Refusal, Unanswered, refusal
from keeper.config.values import Secret
from keeper.errors import BadData, ConfigError, Transient
from keeper.execution.offers import Bundle, Offer, submission, withdrawal
from keeper.model import Address, Hash, address, checksum

log = structlog.get_logger(__name__)

HEADER = "X-Flashbots-Signature"
_LONGEST = 1 << 20  # bytes of an answer that is still read
# How relays say that they do not know us; anything else they say to a harmless question shows that they listen.
_UNWELCOME = re.compile(r"signature|signer|unauthori[sz]ed|forbidden|api.?key|authenticat|credential", re.IGNORECASE)


class Tally(Protocol):
    """Who keeps count of what relays are asked and answer."""

    def asked(self, relay: str) -> None:
        """A request has left."""

    def answered(self, relay: str, result: str) -> None:
        """``accepted``, ``declined``, ``unanswered``, ``unreadable``, or ``simulated_failure`` instead of sending."""

    def included(self, relay: str) -> None:
        """An attempt that the relay had accepted was mined."""


class NoTally:
    """Nobody counts."""

    def asked(self, relay: str) -> None: ...
    def answered(self, relay: str, result: str) -> None: ...
    def included(self, relay: str) -> None: ...


class ReputationKey:
    """The key that signs requests. It holds no money: relays know a searcher by it."""

    __slots__ = ("_address", "_sign")

    def __init__(self, key: Secret | None) -> None:
        """A random one for this process without `key`. Raises ConfigError, without repeating it, when it is none."""
        try:
            account = Account.from_key(secrets.token_bytes(32) if key is None else key.reveal())
        except (ValueError, TypeError):
            raise ConfigError("private.signing_key is not a private key: 32 bytes in hexadecimal") from None
        self._address = address(account.address)
        self._sign: Callable[[bytes], str] = lambda body: account.sign_message(
            encode_defunct(text="0x" + keccak(body).hex())
        ).signature.to_0x_hex()

    @property
    def address(self) -> Address:
        """What relays know us by."""
        return self._address

    def header(self, body: bytes) -> str:
        """`address:signature` over the EIP-191 message that is the hex text of keccak(body)."""
        return f"{checksum(self._address)}:{self._sign(body)}"

    def __repr__(self) -> str:
        return f"ReputationKey({checksum(self._address)})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a reputation key cannot be copied or stored")


@dataclass(frozen=True, slots=True)
class Told:
    """One relay's answer: a hash when it took what it was given, or why not."""

    relay: str
    hash: Hash | None
    error: Transient | BadData | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """What ``eth_callBundle`` said of our transaction."""

    ok: bool
    gas_used: int
    reason: str = ""


class Relay:
    """One relay. Nothing is retried: what was not taken for this block is offered anew for the next."""

    def __init__(
        self,
        name: str,
        url: str,
        offer: Offer,
        key: ReputationKey,
        session: aiohttp.ClientSession,
        *,
        timeout: float = 2.0,
        simulate: bool = False,
        tally: Tally | None = None,
    ) -> None:
        """`timeout` in seconds. With `simulate` a bundle is sent only if the relay's own simulation succeeds."""
        self.name = name
        self.offer = offer
        self._label = f"relay {name} ({masked(url)})"
        self._url = url
        self._key = key
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._simulate = simulate
        self._tally = tally or NoTally()
        self._missing: set[str] = set()  # optional methods it does not offer

    def takes(self, bundle: Bundle) -> bool:
        """Whether this relay can be given `bundle` at all."""
        if self.offer is Offer.TRANSACTION:
            return bundle.leader is None
        return self.offer is Offer.SHARE or bundle.txs is not None

    async def send(self, bundle: Bundle) -> Told:
        """Offer it; never raises."""
        try:
            if self._simulate and (ran := await self.simulate(bundle)) is not None and not ran.ok:
                # Not a ruling on the transaction: the next block may see it otherwise.
                self._tally.answered(self.name, "simulated_failure")
                return Told(self.name, None, BadData(f"{self._label} simulates a failure: {ran.reason}"))
            await self.ask(*submission(self.offer, bundle))
            return Told(self.name, bundle.hash)
        except (Transient, BadData) as error:
            return Told(self.name, None, error)

    async def simulate(self, bundle: Bundle) -> Run | None:
        """``eth_callBundle`` on the block before the bundle's; None where it is not offered."""
        if bundle.txs is None or "eth_callBundle" in self._missing:
            return None
        params = {"txs": bundle.txs, "blockNumber": hex(bundle.block), "stateBlockNumber": hex(bundle.block - 1)}
        answer = await self._optional("eth_callBundle", params)
        if answer is None:
            return None
        try:
            results = answer["results"]
            failed = [one for one in results if one.get("error") or one.get("revert")]
            reason = str(failed[0].get("revert") or failed[0]["error"]) if failed else ""
            return Run(not failed and len(results) == len(bundle.txs), int(results[-1]["gasUsed"]), reason[:200])
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise BadData(f"{self._label} answered eth_callBundle in an unknown form") from error

    async def withdraw(self, bundle: Bundle) -> bool:
        """Ask it not to include what it was given; whether it agreed. Never raises, and proves nothing."""
        try:
            if self.offer is Offer.TRANSACTION:
                return bool(await self._optional(*withdrawal(self.offer, bundle)))
            if self.offer is Offer.BUNDLE:
                return await self._optional(*withdrawal(self.offer, bundle)) is not None
        except (Transient, BadData) as error:
            log.info("relay_withdraw_failed", relay=self.name, reason=str(error))
        return False

    async def ask(self, method: str, params: Any) -> Any:
        """One signed request, raw result. Raises Refusal, Unanswered or BadData; none shows the URL's secrets."""
        self._tally.asked(self.name)
        result = "unanswered"
        try:
            found = await self._ask(method, params)
            result = "accepted"
        except Refusal:
            result = "declined"
            raise
        except BadData:
            result = "unreadable"
            raise
        finally:
            self._tally.answered(self.name, result)
        return found

    async def probe(self) -> str:
        """Ask it to withdraw what it never had, which changes nothing: a sentence about what it said.

        Raises Unanswered, BadData, or Refusal when it does not take our signature.
        """
        nothing = Bundle(secrets.token_bytes(32), 0, 0, str(uuid4()))
        method, params = withdrawal(self.offer, nothing)
        try:
            await self.ask(method, params)
        except Refusal as error:
            if _UNWELCOME.search(error.reason):
                raise
            return f"{self._label} answers: {error.reason}"
        return f"{self._label} answers"

    async def _ask(self, method: str, params: Any) -> Any:
        body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": [params]})
        headers = {
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",  # a few compressed bytes could become any number of them
            HEADER: self._key.header(body),
        }
        try:
            async with self._session.post(
                self._url, data=body, headers=headers, timeout=self._timeout, allow_redirects=False
            ) as response:
                text = b""
                async for chunk in response.content.iter_any():
                    text += chunk
                    if len(text) > _LONGEST:
                        raise BadData(f"{self._label} answered {method} with more than {_LONGEST} bytes")
                status = response.status
        except TimeoutError:
            raise Unanswered(f"{self._label} did not answer {method} within {self._timeout.total:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unanswered(f"{self._label} cannot be reached ({type(error).__name__})") from None
        try:
            answer = orjson.loads(text)
        except orjson.JSONDecodeError:
            answer = None
        if isinstance(answer, dict) and answer.get("error") is not None:
            raise refusal(answer["error"], self._label)
        if status != 200:
            raise Unanswered(f"{self._label} answered {method} with HTTP {status}")
        if not isinstance(answer, dict) or "result" not in answer:
            raise BadData(f"{self._label} answered {method} with something that is not a JSON-RPC response")
        return answer["result"]

    async def _optional(self, method: str, params: Any) -> Any:
        """Like `ask`, but None from a relay that does not know the method, which is then not asked again."""
        if method in self._missing:
            return None
        try:
            found = await self.ask(method, params)
        except Refusal as error:
            if error.kind is not Kind.UNSUPPORTED:
                raise
            self._missing.add(method)
            return None
        return True if found is None else found


@dataclass(frozen=True, slots=True)
class RelaySpec:
    """One ``[relays.<name>]`` table."""

    name: str
    url: Secret
    offer: Offer
    simulate: bool = False


class Relays:
    """All of them, as an async context manager over one HTTP session."""

    def __init__(
        self, specs: Sequence[RelaySpec], key: ReputationKey, *, timeout: float = 2.0, tally: Tally | None = None
    ) -> None:
        self.tally = tally or NoTally()
        self._specs = specs
        self._key = key
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None
        self.each: tuple[Relay, ...] = ()

    async def __aenter__(self) -> Self:
        self._session = session = aiohttp.ClientSession(auto_decompress=False)
        self.each = tuple(
            Relay(
                s.name,
                s.url.reveal(),
                s.offer,
                self._key,
                session,
                timeout=self._timeout,
                simulate=s.simulate,
                tally=self.tally,
            )
            for s in self._specs
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def hold(self) -> bool:
        """Whether one of them may include a transaction in a later block than the bundle's."""
        return any(relay.offer is Offer.TRANSACTION for relay in self.each)

    async def send(self, bundle: Bundle) -> list[Told]:
        """Offer it to every relay that can take it, at the same time. Never raises."""
        return list(await asyncio.gather(*(relay.send(bundle) for relay in self.each if relay.takes(bundle))))

    async def withdraw(self, bundle: Bundle) -> int:
        """Ask all to forget it; how many agreed. Never raises."""
        return sum(await asyncio.gather(*(relay.withdraw(bundle) for relay in self.each if relay.takes(bundle))))
