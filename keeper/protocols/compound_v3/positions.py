"""What can be taken: absorbable accounts and collateral on sale, and in numbers why some of it is not offered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keeper.model import WAD, Account, Address, Head, Skip, SkipReason
from keeper.ports import Position
from keeper.protocols.compound_v3.health import Health, Holding
from keeper.protocols.compound_v3.market import PRICE_UNIT, Asset, Market
from keeper.protocols.compound_v3.pair import Absorbed, CometPair
from keeper.protocols.compound_v3.till import Till

MOST_ACCOUNTS = 16  # absorbed by one call
LEADS = 4  # of so many holders of one asset, by size, the first offers the others as well
# Collateral on sale that is worth less is dust that nobody will ever buy.
LEAST_ON_SALE = PRICE_UNIT // 1_000  # base currency


@dataclass(frozen=True, slots=True)
class Weak:
    """A liquidatable account."""

    borrower: Address
    principal: int
    holdings: tuple[Holding, ...]
    health: Health

    @property
    def absorbed(self) -> Absorbed:
        """As a pair needs it."""
        return Absorbed(self.borrower, self.principal, len(self.holdings))


@dataclass(frozen=True, slots=True)
class Scene:
    """The market at the moment a position is looked at, and as late as it may be taken."""

    name: str
    head: Head
    now: Till
    late: Till
    weak: Mapping[Address, Sequence[Weak]]  # by asset, the largest holders first, nobody absorbed yet
    native: Address | None

    @property
    def market(self) -> Market:
        return self.now.valuation.market

    def copy(self) -> tuple[Till, Till]:
        """Both moments, to try something out."""
        return self.now.copy(), self.late.copy()


def front_health(asset: Asset, on_sale: int) -> int:
    """The health factor of collateral on sale (wad): u / (u + on sale), u being one whole token.

    Below one, and the worse the more there is, so that a purchase which failed is tried again when there is more.
    """
    return asset.scale * WAD // (asset.scale + on_sale)


def account_position(scene: Scene, weak: Weak) -> Position:
    """An account that an absorb would find liquidatable, with one pair per collateral and number of accounts."""
    refusals: list[Skip] = []
    pairs: list[CometPair] = []
    totals = scene.now.valuation.state.totals
    if totals.absorb_paused:
        refusals.append(Skip(SkipReason.NO_PAIR, f"absorbing is paused in {scene.name}"))
    elif totals.buy_paused:
        refusals.append(_buying_paused(scene))
    elif not weak.holdings:
        refusals.append(
            Skip(SkipReason.NO_PAIR, "no collateral is left, only debt that nobody is paid for", {"collateral": 0})
        )
    else:
        for token, _ in weak.holdings:
            asset = scene.market.by_asset.get(token)
            found = None if asset is None else _groups(scene, weak, asset)
            if isinstance(found, Skip):
                refusals.append(found)
            elif found:
                pairs += found
    account = Account(weak.borrower, weak.health.factor, weak.health.collateral, weak.health.debt)
    return _position(scene, account, pairs, refusals)


def front_position(scene: Scene, asset: Asset) -> Position | None:
    """Collateral on sale without an absorb; None where there is none worth showing, or none is sold."""
    account = front_account(scene.now, asset)
    if account is None or not sells(scene.now, scene.late):
        return None
    if scene.now.valuation.state.totals.buy_paused:
        return None
    pair = _pair(scene, asset, scene.now.on_sale(asset.token.address) or 0, ())
    if isinstance(pair, Skip):
        return _position(scene, account, [], [pair])
    return _position(scene, account, [pair], [])


def front_account(now: Till, asset: Asset) -> Account | None:
    """What is on sale of one collateral: its value, and what is asked for it; None for dust or where prices miss."""
    on_sale, price, offer = now.on_sale(asset.token.address), now.valuation.price(asset.token.address), None
    if on_sale is not None and price is not None:
        offer = now.valuation.offer(asset)
    if on_sale is None or price is None or offer is None:
        return None
    value = now.valuation.value(asset, on_sale, price)
    if value < LEAST_ON_SALE:
        return None
    asked = now.valuation.value(asset, on_sale, offer.asked)
    return Account(asset.token.address, front_health(asset, on_sale), value, asked)


def sells(now: Till, late: Till) -> bool:
    """Whether the store front is open now and will be for as long as a purchase may take."""
    return now.sells and late.sells


def _groups(scene: Scene, weak: Weak, asset: Asset) -> list[CometPair] | Skip:
    """The account alone, and with 1, 3, 7… of the next largest liquidatable holders of the same collateral.

    Larger holders are left out: their own positions offer this account. Only every `LEADS`-th account offers others at
    all, for every offer costs a plan, and hundreds of accounts too small to pay for gas may be liquidatable for months.
    """
    ranked = scene.weak.get(asset.token.address, ())
    place = next((i for i, other in enumerate(ranked) if other.borrower == weak.borrower), len(ranked))
    members = (weak, *(ranked[place + 1 : place + MOST_ACCOUNTS] if place % LEADS == 0 else ()))
    sizes = {1 << power for power in range(MOST_ACCOUNTS.bit_length()) if 1 << power <= len(members)} | {len(members)}
    now, late = scene.copy()
    front = front_account(now, asset) is not None
    found: list[CometPair] = []
    refusal: Skip | None = None
    for count, member in enumerate(members, 1):
        for till in (now, late):
            till.absorb(member.principal, member.holdings)
        if count not in sizes:
            continue
        if not sells(now, late):
            refusal = refusal or _not_for_sale(scene, now)
            continue
        pair = _pair(scene, asset, now.on_sale(asset.token.address), members[:count], front=front)
        if isinstance(pair, Skip):
            refusal = refusal or pair
        else:
            found.append(pair)
    return found or refusal or []


def _pair(
    scene: Scene, asset: Asset, on_sale: int | None, members: Sequence[Weak], *, front: bool = False
) -> CometPair | Skip:
    valuation, base = scene.now.valuation, scene.market.base
    names = f"{base.symbol} for {asset.token.symbol}"
    if on_sale is None:
        return Skip(
            SkipReason.COLLATERAL_DRAINED, f"{names}: {scene.name} holds less {asset.token.symbol} than it owes", {}
        )
    offer, price, base_price = valuation.offer(asset), valuation.price(asset.token.address), valuation.base_price
    if offer is None or price is None or base_price is None:
        return Skip(SkipReason.MARKET_UNKNOWN, f"{names}: no price", {})
    absorbs = tuple(member.absorbed for member in members)
    assets = len({token for member in members for token, _ in member.holdings})
    pair = CometPair(base, asset.token, base_price, price, offer, on_sale, absorbs, assets, front)
    if pair.feasible:
        return pair
    return Skip(
        SkipReason.DUST_HOLE,
        f"{names}: the least payment of {offer.least()} base units buys more than the {on_sale} there are",
        {"on_sale": on_sale, "least": offer.least()},
    )


def _not_for_sale(scene: Scene, till: Till) -> Skip:
    market = scene.market
    return Skip(
        SkipReason.NO_PAIR,
        f"{scene.name} would have reserves of {till.reserves} base units of {market.base.symbol}, and sells collateral "
        f"only below {market.target_reserves}",
        {"reserves": till.reserves, "target_reserves": market.target_reserves},
    )


def _buying_paused(scene: Scene) -> Skip:
    return Skip(SkipReason.NO_PAIR, f"buying collateral is paused in {scene.name}")


def _position(scene: Scene, account: Account, pairs: Sequence[CometPair], refusals: Sequence[Skip]) -> Position:
    valuation = scene.now.valuation
    return Position(
        market=scene.name,
        account=account,
        head=scene.head,
        timestamp=valuation.timestamp,
        base_unit=PRICE_UNIT,
        native_price=None if scene.native is None else valuation.price(scene.native),
        pairs=tuple(pairs),
        refusals=tuple(refusals),
    )
