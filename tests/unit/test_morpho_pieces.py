"""Small parts of the Morpho adapter: places, symbols, recognising a rate model, dust, and what an audit finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from eth_abi.abi import encode
from msgspec import structs

from keeper.abi import interface
from keeper.config import load
from keeper.errors import ConfigError
from keeper.kinds import check_words
from keeper.maths.wad_ray import WAD
from keeper.model import Address, Hash, Head, Log, Read, SkipReason, Token, address, handle
from keeper.protocols.morpho_blue import MorphoBlueBook, events, irm
from keeper.protocols.morpho_blue.follower import PreTerms
from keeper.protocols.morpho_blue.irm import IRM, Kind, adaptive_rate
from keeper.protocols.morpho_blue.market import Params, State, accrued
from keeper.protocols.morpho_blue.pair import Call, Moment, MorphoPair, Terms
from keeper.protocols.morpho_blue.positions import Holding, Scene, build_position
from keeper.protocols.morpho_blue.registry import Registry
from keeper.protocols.morpho_blue.rules import incentive
from keeper.protocols.morpho_blue.tokens import read_tokens, symbol_of
from keeper.rewind import Rewind
from tests.support import morpho_logs
from tests.support.morpho_logs import MORPHO, Life, acquaint, new_book, topic, word

pytestmark = pytest.mark.unit

HEAD = Head(7, Hash("0x07"), Hash("0x06"), 1_700_000_000, 10**9)
ZERO = Address("0x" + "00" * 20)


class Answers:
    """A node that answers views by a function."""

    def __init__(self, answer: Callable[[Read], bytes | None]) -> None:
        self._answer = answer

    async def read(self, reads: Sequence[Read], at: Head) -> list[bytes | None]:
        return [self._answer(read) for read in reads]


def params(market_id: str, place: str = "0x00000000") -> Params:
    return Params(market_id, place, address("0x" + "0a" * 20), address("0x" + "0b" * 20), MORPHO, ZERO, 86 * 10**16)


def test_a_place_is_the_shortest_beginning_that_no_earlier_market_has() -> None:
    """Ten characters as a rule, more where another id begins alike; places given out before never change."""
    registry = Registry(Rewind())
    ids = ["0x12345678" + tail for tail in ("ab" * 28, "ab" * 27 + "cd", "ac" * 28)]
    for market_id in ids:
        registry.create(params(market_id, registry.place(market_id)), 0)
    assert [registry.params[n].place for n in range(3)] == ["0x12345678", "0x12345678a", "0x12345678ac"]
    assert registry.places == {"0x12345678": 0, "0x12345678a": 1, "0x12345678ac": 2}


@pytest.mark.parametrize(
    ("answer", "symbol"),
    [
        (encode(["string"], ["WETH"]), "WETH"),
        (b"MKR".ljust(32, b"\0"), "MKR"),
        (encode(["string"], ["\x1b[31mred\n"]), "[31mred"),
        (encode(["string"], ["x" * 400]), "x" * 16),
        (b"\xff" * 64, ""),
        (b"", ""),
        (None, ""),
    ],
)
def test_symbols_are_taken_as_plain_text(answer: bytes | None, symbol: str) -> None:
    """A stranger's token cannot put anything but short printable text into a log."""
    assert symbol_of(answer) == symbol


async def test_a_token_without_decimals_is_none() -> None:
    """No decimals, too many, or nonsense: the token, and so its market, cannot be used."""
    tokens = [address(f"0x{n:040x}") for n in range(1, 5)]
    told = {tokens[0]: word(6), tokens[1]: word(77), tokens[2]: b"\1", tokens[3]: None}
    selector = interface("erc20").functions["decimals"].selector
    client = Answers(lambda read: told[read.to] if read.data[:4] == selector else None)
    found = await read_tokens(client, HEAD, tokens)  # type: ignore[arg-type]  # only `read` is used
    assert found == {tokens[0]: Token(tokens[0], tokens[0][:10], 6), **dict.fromkeys(tokens[1:])}


def _as_adaptive(read: Read, at_target: int = irm.INITIAL, at: int = HEAD.timestamp) -> bytes:
    """What the AdaptiveCurveIrm of MORPHO answers at a time."""
    if read.data[:4] == IRM.functions["MORPHO"].selector:
        return word(int(MORPHO, 16))
    if read.data[:4] == IRM.functions["rateAtTarget"].selector:
        return word(at_target)
    words = [int.from_bytes(read.data[at : at + 32], "big") for at in range(4 + 5 * 32, len(read.data), 32)]
    return word(adaptive_rate(State(*words), at_target, at).average)


def test_a_rate_model_is_known_by_what_it_answers() -> None:
    """The very arithmetic, for this Morpho, with a stored rate: anything else is asked at every head instead."""
    model, market = address("0x" + "0c" * 20), params("0x" + "ab" * 32)
    asked = irm.probes(model, market, HEAD.timestamp)
    good: list[bytes | None] = [_as_adaptive(read) for read in asked]
    assert irm.recognised(MORPHO, good, HEAD.timestamp)
    assert not irm.recognised(model, good, HEAD.timestamp), "it serves another deployment"
    for place in range(2, len(good)):
        answer = good[place]
        assert answer is not None
        off = [*good[:place], word(int.from_bytes(answer, "big") + 1), *good[place + 1 :]]
        assert not irm.recognised(MORPHO, off, HEAD.timestamp), f"probe {place} decides nothing"
    for missing in range(len(good)):
        assert not irm.recognised(MORPHO, [*good[:missing], None, *good[missing + 1 :]], HEAD.timestamp)
    fresh: list[bytes | None] = [_as_adaptive(read, 0) for read in asked]
    assert not irm.recognised(MORPHO, fresh, HEAD.timestamp), "without a stored rate nothing is shown"


def test_the_exponential_is_near_the_true_one() -> None:
    """Pieces of a parabola: within one percent of e^x, never negative, clipped at both ends."""
    import math

    for x in range(-40 * 100, 90 * 100, 7):
        mine = irm.exponential(x * WAD // 100)
        assert mine >= 0
        if x > -3_000:
            assert mine / WAD == pytest.approx(math.exp(x / 100), rel=0.01)
    assert irm.exponential(irm.LN_WEI - 1) == 0
    assert irm.exponential(irm.EXP_LIMIT) == irm.exponential(10**30) == irm.EXP_AT_LIMIT


def _pair(shares: int, collateral: int, *, price: int = 2_500 * 10**24, later: int = 36) -> MorphoPair:
    state = State(10**13, 10**19, 8 * 10**12, 8 * 10**18, 0, 0)
    late = accrued(state, 10**9, later) if later else state
    lltv = 86 * 10**16
    terms = Terms(MORPHO, params("0x" + "ab" * 32), Token(MORPHO, "USDC", 6), Token(ZERO, "WETH", 18), WAD, 0)
    moments = [Moment(s, price, incentive(lltv), shares, shares, collateral) for s in (state, late)]
    return MorphoPair(terms, *moments)


@pytest.mark.parametrize("shares", [1, 10, 10**6, 10**9, 10**12, 2_100 * 10**12, 2_600 * 10**12, 10**16])
def test_what_is_feasible_is_accepted_then_and_later_and_paid_for(shares: int) -> None:
    """Every amount of the interval runs at both ends, costs no more than itself and its budget, and earns something."""
    pair = _pair(shares, 10**18)
    for low, high in pair.feasible:
        for repay in {low, high, (low + high) // 2, (3 * low + high) // 4}:
            moved = pair.now.run(pair.call(repay))
            late = pair._late.run(pair.call(repay))
            assert moved is not None
            assert late is not None
            assert moved.repaid <= repay
            assert 0 < moved.seized <= 10**18
            assert max(moved.repaid, late.repaid) <= pair.budget(repay) <= late.repaid + 2
            offer = pair.advance(repay)
            assert offer is not None
            assert (offer.amount, offer.premium) == (pair.budget(repay), 0)
        if low > 1:
            assert pair.now.partial(low - 1).seized == 0 or low == high


def test_full_means_by_shares_or_by_collateral() -> None:
    """Debt that the collateral covers goes by its shares; more than it covers takes all the collateral by amount."""
    covered, under = _pair(2_000 * 10**12, 10**18), _pair(2_600 * 10**12, 10**18)
    assert covered.full is not None
    assert covered.call(covered.full) == Call(0, 2_000 * 10**12)
    assert under.full is not None
    assert under.call(under.full) == Call(10**18, 0)
    assert under.moved(under.full).seized == 10**18
    with pytest.raises(ValueError, match="reverts"):
        covered.moved(covered.full * 3)


def test_what_turns_under_water_while_it_waits_is_taken_almost_whole() -> None:
    """Neither whole call holds at both ends then, so the largest amount that does is offered, and nothing beyond."""
    state = State(10**13, 10**19, 8 * 10**12, 8 * 10**18, 0, 0)
    late = accrued(state, 10**12, 36)
    low, high = 10**12, 10**16  # the most shares the collateral pays for now
    while high - low > 1:
        middle = (low + high) // 2
        moment = Moment(state, 2_500 * 10**24, incentive(86 * 10**16), middle, middle, 10**18)
        low, high = (middle, high) if moment.run(Call(0, middle)) is not None else (low, middle)
    base = _pair(low, 10**18, later=0)
    pair = MorphoPair(base.terms, base.now, replace(base.now, state=late))
    assert pair.full is None
    ((_, largest),) = pair.feasible
    assert base.now.assets(low) - largest < 5
    assert pair._late.run(pair.call(largest)) is not None
    assert pair.call(largest).seized


def _scene(pre: tuple[tuple[PreTerms, int | None], ...], price: int) -> Scene:
    state = State(10**13, 10**19, 8 * 10**12, 8 * 10**18, HEAD.timestamp, 0)
    loan, collateral = Token(MORPHO, "USDC", 6), Token(ZERO, "WETH", 18)
    market = params("0x" + "ab" * 32)
    return Scene("morpho", MORPHO, HEAD, HEAD.timestamp, market, loan, collateral, state, state, price, pre, ZERO)


def test_a_pre_liquidation_goes_by_its_own_oracle() -> None:
    """Outside its band it offers nothing; when its oracle is silent it says so, and Morpho's own is not touched."""
    terms = PreTerms(address("0x" + "dd" * 20), 0, 80 * 10**16, (WAD // 10, WAD), (WAD, 104 * WAD // 100), MORPHO)
    holding, price = Holding(2_075 * 10**12, 10**18), 2_500 * 10**24  # owes 83 % of the collateral's worth
    borrower = address("0x" + "ee" * 20)
    assert build_position(_scene((), price), borrower, holding) is None
    found = build_position(_scene(((terms, price),), price), borrower, holding)
    assert found is not None
    assert found.account.health_factor > WAD
    assert found.native_price == 2_500 * WAD
    (pair,) = found.pairs
    assert isinstance(pair, MorphoPair)
    assert WAD < pair.now.factor < 104 * WAD // 100
    assert pair.feasible[0][1] < 2_075 * 10**6
    higher = price * 110 // 100  # by its own oracle the borrower is safe
    assert build_position(_scene(((terms, higher),), price), borrower, holding) is None
    silent = build_position(_scene(((terms, None),), price), borrower, holding)
    assert silent is not None
    assert not silent.pairs
    assert silent.refusals[0].reason is SkipReason.MARKET_UNKNOWN
    own = build_position(_scene(((terms, None),), price * 90 // 100), borrower, holding)
    assert own is not None
    assert [p.terms.contract for p in own.pairs if isinstance(p, MorphoPair)] == [None]


def _lived() -> tuple[MorphoBlueBook, Life]:
    book = new_book()
    life = Life(book, 5, 12)
    acquaint(book, life)
    life.create()
    for _ in range(120):
        book.apply(life.block())
        life.act()
    for number in range(len(book._registry)):
        state = book._registry.states[number]
        book._registry.set_state(number, replace(state, updated=life.timestamp - 600))
    book._head = life.head(life.number)
    return book, life


def _chain_of(book: MorphoBlueBook, head: Head) -> Callable[[Read], bytes | None]:
    """Answers that agree with a book."""
    registry, ledger, morpho = book._registry, book._ledger, events.MORPHO

    def answer(read: Read) -> bytes | None:
        selector, key = read.data[:4], "0x" + read.data[4:36].hex()
        if selector == morpho.functions["market"].selector:
            return word(*registry.states[registry.numbers[key]].words)
        if selector == morpho.functions["position"].selector:
            entry = ledger.find(registry.numbers[key], address("0x" + read.data[48:68].hex()))
            assert entry is not None
            return word(ledger.supply[entry], ledger.borrow[entry], ledger.collateral[entry])
        words = [int.from_bytes(read.data[at : at + 32], "big") for at in range(4 + 5 * 32, len(read.data), 32)]
        market = next(
            n for n, p in registry.params.items() if IRM.encode("borrowRateView", p.words, words) == read.data
        )
        return word(adaptive_rate(State(*words), registry.targets[market], head.timestamp).average)

    return answer


async def test_an_audit_finds_a_wrong_position_market_and_rate_but_believes_only_what_is_said_twice() -> None:
    """Agreement is silent; each kind of difference is named; one odd answer is not."""
    book, life = _lived()
    head = life.head(life.number)
    truth = _chain_of(book, head)
    audit: Callable[[Any], Any] = lambda client: book.audit(client, head, 1_000)  # noqa: E731 - a name for the long call
    assert await audit(Answers(truth)) is None
    morpho = events.MORPHO.functions
    for selector, told in (
        (morpho["position"].selector, "has"),
        (morpho["market"].selector, "is State"),
        (IRM.functions["borrowRateView"].selector, "pays"),
    ):

        def off(read: Read, selector: bytes = selector) -> bytes | None:
            answer = truth(read)
            assert answer is not None
            changed = (int.from_bytes(answer[:32], "big") + 1).to_bytes(32, "big") + answer[32:]
            return changed if read.data[:4] == selector else answer

        found = await audit(Answers(off))
        assert found is not None
        assert found.reason is SkipReason.MARKET_UNKNOWN
        assert told in found.detail
        calls = iter(range(10**6))
        once = Answers(lambda read, off=off, calls=calls: off(read) if next(calls) == 0 else truth(read))  # type: ignore[misc]
        assert await audit(once) is None


async def test_a_rate_that_was_never_read_is_no_bug_of_the_audit() -> None:
    """A market whose rate at target a node has kept back is known to be unread: it is not asked about."""
    book, life = _lived()
    head = life.head(life.number)
    truth = _chain_of(book, head)
    number = next(iter(book._registry.targets))
    del book._registry.targets[number]
    client: Any = Answers(truth)
    assert await book.audit(client, head, 1_000) is None


async def test_what_did_not_answer_is_asked_again() -> None:
    """A token or a rate model that a node once failed on is looked at anew with every audit."""
    book, life = _lived()
    head = life.head(life.number)
    token = next(iter(book._wanted))
    book._tokens[token] = None
    book._registry.set_kind(morpho_logs.IRM, Kind.ASKED)
    decimals, truth = interface("erc20").functions["decimals"].selector, _chain_of(book, head)

    def answer(read: Read) -> bytes | None:
        if read.to == token:
            return word(18) if read.data[:4] == decimals else None
        if read.to in (morpho_logs.IRM, morpho_logs.STRANGE):
            return _as_adaptive(read, at=head.timestamp) if read.to == morpho_logs.IRM else None
        return truth(read)

    assert book.unknown_markets()
    assert await book.audit(Answers(answer), head, 0) is None  # type: ignore[arg-type]  # only `read` is used
    assert book._tokens[token] == Token(token, token[:10], 18)
    assert not book.unknown_markets()
    assert book._registry.kinds[morpho_logs.IRM] is Kind.ADAPTIVE
    assert book._registry.kinds[morpho_logs.STRANGE] is Kind.ASKED


def test_liquidations_are_told_by_both_kinds_of_contract() -> None:
    """Label, parties, amounts and prices of Morpho's own event; strangers' logs are not ours."""
    book, life = _lived()
    number = next(n for n in book.exposed() if book._registry.kind(n) is Kind.ADAPTIVE)
    market = book._registry.params[number]
    book._tokens |= {t: Token(t, "T", 18) for t in (market.loan, market.collateral)}
    book._native = market.loan
    book.observe(life.head(life.number), [word(3 * 10**36)] * len(book.reads()))
    who, by = address("0x" + "77" * 20), address("0x" + "88" * 20)
    log = Log(MORPHO, (events.LIQUIDATE, market.id, topic(by), topic(who)), word(5, 6, 7, 8, 9), 3, 4, HEAD.hash)
    others = structs.replace(log, address=by), structs.replace(log, topics=(events.SUPPLY, *log.topics[1:]))
    (seen,) = book.liquidations([log, *others])
    assert (seen.market, seen.borrower, seen.liquidator) == (f"morpho/{market.place}", who, by)
    assert (seen.repaid, seen.seized) == (5, 7)
    assert (seen.debt_price, seen.collateral_price, seen.native_price) == (WAD, 3 * WAD, WAD)
    assert seen.gross == 7 * 3 - 5
    assert MORPHO in book.liquidation_watch().addresses
    name = handle(who, market.place)
    assert book.position(name, HEAD.timestamp) is None


def test_further_contracts_belong_to_morpho_alone(tmp_path: Any) -> None:
    """`further` on a market whose kind knows none is refused by name."""
    path = tmp_path / "keeper.toml"
    path.write_text(
        "[chain]\nid = 1\nendpoints = ['ws://127.0.0.1:1']\n[tokens]\n"
        f"wrapped_native = '{MORPHO}'\n[markets.aave]\nprotocol = 'aave_v3'\naddress = '{MORPHO}'\n"
        f"start_block = 1\nfurther = ['{MORPHO}']\n[venues.v3]\nkind = 'uniswap_v3'\naddress = '{MORPHO}'\n"
        "start_block = 1\n"
    )
    with pytest.raises(ConfigError, match=r"markets\.aave\.further"):
        check_words(load(path, {}))
