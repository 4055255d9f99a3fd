"""Named yes/no checks between a plan and its simulation. Every gate is always evaluated, so that a person sees all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from keeper.model import Address, Plan, Skip, SkipReason, Token, Uptime
from keeper.ports import Position, Quoter
from keeper.strategy.value import native, wei_value_up

BPS = 10_000


@dataclass(frozen=True, slots=True)
class GateSettings:
    """Limits; a value exactly at its limit passes."""

    min_net: int = 10**16  # wei after gas
    min_net_bps_of_cost: int = 0  # net as a share of the gas cost; 0: no such floor
    max_gas_price: int = 300 * 10**9  # wei per gas, base fee + tip
    max_oracle_gap_bps: int = 500  # distance of the pools' price from the market's, as a share of the market's
    max_head_age: int = 60  # seconds
    max_exposure: int = 1_000 * 10**18  # wei of debt repaid in one attempt
    sanity_bps: int = 10_000  # gain as a share of bonus × repaid
    sanity_slack: int = 10**12  # wei on top, for rounding


@dataclass(frozen=True, slots=True)
class GateContext:
    """What only the running process knows at this moment."""

    now: int  # Unix seconds
    market_trusted: bool = True
    market_reason: str = ""  # why it is not
    read_only: bool = False  # the market is watched but not acted on, e.g. rules of an unknown version
    paused: bool = False  # by the operator
    in_flight: bool = False  # an attempt on this borrower has not ended
    cooldown_until: int | None = None  # Unix seconds; None: no cooldown, or one without an end in time
    held: str = ""  # why the position is left alone
    breaker: str | None = None  # why the breaker is open; None: closed
    waits_for: str = ""  # which attempt of ours, not mined yet, moves what the plan needs
    uptime: Uptime | None = None  # of the sequencer; None: the chain has no feed of it


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate's answer. `reason` is what a skip is counted under when the gate is closed."""

    name: str
    open: bool
    detail: str
    numbers: Mapping[str, int]
    reason: SkipReason

    def skip(self) -> Skip:
        """The closed gate as a reason to leave the position alone."""
        return Skip(self.reason, self.detail, dict(self.numbers))


def first_closed(results: Sequence[GateResult]) -> GateResult | None:
    """The gate a skip is counted under; None when all are open."""
    return next((result for result in results if not result.open), None)


@dataclass(frozen=True, slots=True)
class Gates:
    """The checks, from what makes any decision void to what makes this one unwise."""

    settings: GateSettings = field(default_factory=GateSettings)

    def evaluate(self, plan: Plan, position: Position, quoter: Quoter, context: GateContext) -> tuple[GateResult, ...]:
        """Every gate's answer, in the order in which a closed one is counted. `quoter` is on the plan's state."""
        return (
            _flag("market_unknown", SkipReason.MARKET_UNKNOWN, not context.market_trusted, context.market_reason),
            _flag("market_read_only", SkipReason.MARKET_READ_ONLY, context.read_only, "watched but not acted on"),
            _flag("paused", SkipReason.PAUSED, context.paused, "paused by the operator"),
            _flag("breaker", SkipReason.BREAKER_OPEN, context.breaker is not None, context.breaker or ""),
            _sequencer(plan, context.uptime),
            self._stale_head(plan, context),
            _flag("in_flight", SkipReason.IN_FLIGHT, context.in_flight, "an attempt on this borrower has not ended"),
            _flag("under_way", SkipReason.SUPERSEDED, bool(context.waits_for), context.waits_for),
            _cooldown(context),
            self._gas_ceiling(plan),
            self._oracle_gap(plan, position, quoter),
            self._sanity(plan),
            self._exposure(plan, position, quoter),
            self._profit_floor(plan),
        )

    def _stale_head(self, plan: Plan, context: GateContext) -> GateResult:
        age, limit = context.now - plan.head.timestamp, self.settings.max_head_age
        detail = f"head {plan.head.number} is {age} s old; {limit} s are allowed"
        return GateResult("stale_head", age <= limit, detail, {"age": age, "limit": limit}, SkipReason.STALE_HEAD)

    def _gas_ceiling(self, plan: Plan) -> GateResult:
        price, limit = plan.fees.price, self.settings.max_gas_price
        detail = f"gas costs {_gwei(price)} gwei; the ceiling is {_gwei(limit)}"
        return GateResult(
            "gas_ceiling", price <= limit, detail, {"price": price, "limit": limit}, SkipReason.GAS_CEILING
        )

    def _profit_floor(self, plan: Plan) -> GateResult:
        settings = self.settings
        share = -(-plan.cost * settings.min_net_bps_of_cost // BPS)
        floor = max(settings.min_net, share)
        detail = f"net {native(plan.net)} native after {native(plan.cost)} of gas; the floor is {native(floor)}"
        numbers = {"net": plan.net, "cost": plan.cost, "limit": floor}
        return GateResult("profit_floor", plan.net >= floor, detail, numbers, SkipReason.PROFIT_FLOOR)

    def _sanity(self, plan: Plan) -> GateResult:
        limit = plan.sanity_bound * self.settings.sanity_bps // BPS + self.settings.sanity_slack
        detail = f"gain {native(plan.gain)} native; the bonus on what is repaid allows {native(limit)}"
        numbers = {"gain": plan.gain, "bound": plan.sanity_bound, "limit": limit}
        return GateResult("profit_sanity", plan.gain <= limit, detail, numbers, SkipReason.PROFIT_SANITY)

    def _exposure(self, plan: Plan, position: Position, quoter: Quoter) -> GateResult:
        limit, price = self.settings.max_exposure, _prices(plan, position)[plan.debt.address]
        repaid = wei_value_up(position, quoter, plan.profit_token, plan.debt, price, plan.seizure.repaid)
        if repaid is None:
            detail = f"{plan.debt.symbol} cannot be valued in the native token: neither the market nor a pool prices it"
            return GateResult(
                "exposure", open=False, detail=detail, numbers={"limit": limit}, reason=SkipReason.EXPOSURE
            )
        detail = f"repays {native(repaid)} native of {plan.debt.symbol}; {native(limit)} is allowed per attempt"
        numbers = {"repaid": repaid, "limit": limit}
        return GateResult("exposure", repaid <= limit, detail, numbers, SkipReason.EXPOSURE)

    def _oracle_gap(self, plan: Plan, position: Position, quoter: Quoter) -> GateResult:
        """Compare both trades a plan may make with the market's prices; the wider gap counts."""
        limit = self.settings.max_oracle_gap_bps
        prices = _prices(plan, position)
        collateral = plan.collateral
        legs = {plan.debt.address: (plan.debt, prices[plan.debt.address])}
        if position.native_price:
            legs[plan.profit_token] = (Token(plan.profit_token, "native", 18), position.native_price)
        numbers, texts, fits = {"limit": limit}, [], True
        for token, price in legs.values():
            if token.address == collateral.address:
                continue
            gap = _gap(quoter, collateral, prices[collateral.address], token, price)
            leg = "debt" if token.address == plan.debt.address else "native"
            if gap is None:
                fits = False
                texts.append(f"no pool prices {collateral.symbol} in {token.symbol}")
                continue
            off, market = gap
            numbers[f"gap_bps_{leg}"] = -(-off * BPS // market)
            texts.append(
                f"{collateral.symbol} in {token.symbol} is {numbers[f'gap_bps_{leg}']} bps off the market's price"
            )
            fits = fits and off * BPS <= limit * market
        detail = ("; ".join(texts) or "nothing is traded against the market's prices") + f"; {limit} bps are allowed"
        return GateResult("oracle_gap", fits, detail, numbers, SkipReason.ORACLE_GAP)


def _gap(quoter: Quoter, one: Token, one_price: int, other: Token, other_price: int) -> tuple[int, int] | None:
    """|pool price − market price| and market price of `one` in `other`, over a common denominator."""
    spot = quoter.spot(one.address, other.address)
    if spot is None or not spot[1] or not one_price or not other_price:
        return None
    one_unit: int = 10**one.decimals
    other_unit: int = 10**other.decimals
    pool = spot[0] * other_price * one_unit
    market = one_price * other_unit * spot[1]
    return abs(pool - market), market


def _prices(plan: Plan, position: Position) -> dict[Address, int]:
    """The market's price of the plan's two assets."""
    for pair in position.pairs:
        if (pair.debt.address, pair.collateral.address) == (plan.debt.address, plan.collateral.address):
            return {plan.debt.address: pair.debt_price, plan.collateral.address: pair.collateral_price}
    raise ValueError(f"the position of {plan.borrower} in {plan.market} has no pair of this plan")


def _cooldown(context: GateContext) -> GateResult:
    until = context.cooldown_until
    left = 0 if until is None else max(until - context.now, 0)
    endless = bool(context.held) and until is None
    detail = f"{left} s of cooldown are left: {context.held}" if left else context.held if endless else "no cooldown"
    return GateResult("cooldown", not left and not endless, detail, {"seconds_left": left}, SkipReason.COOLDOWN)


def _sequencer(plan: Plan, uptime: Uptime | None) -> GateResult:
    """Open once it has been up for more than the grace period at inclusion, as ``PriceOracleSentinel`` counts it.

    What its borrowers could not do while it was down they are given the time to do.
    """
    if uptime is None:
        return _flag("sequencer", SkipReason.SEQUENCER, closed=False, why="")
    passed = max(plan.timestamp - uptime.since, 0)
    numbers = {"grace": uptime.grace}
    if uptime.up is None:
        detail = f"whether the sequencer is up is unknown: {uptime.unknown or 'no reason given'}"
    elif uptime.up:
        detail = f"the sequencer has been up for {passed} s; more than {uptime.grace} s are wanted"
        numbers["up_for"] = passed
    else:
        detail = f"the sequencer has been down for {passed} s"
        numbers["down_for"] = passed
    fits = uptime.up is True and passed > uptime.grace
    return GateResult("sequencer", fits, detail, numbers, SkipReason.SEQUENCER)


def _flag(name: str, reason: SkipReason, closed: bool, why: str) -> GateResult:
    if not closed:
        return _fine(name, reason)
    return GateResult(name, open=False, detail=why or "no reason given", numbers={}, reason=reason)


@cache
def _fine(name: str, reason: SkipReason) -> GateResult:
    return GateResult(name, open=True, detail="fine", numbers={}, reason=reason)


def _gwei(wei: int) -> str:
    return f"{wei // 10**9}.{wei % 10**9 // 10**6:03d}"
