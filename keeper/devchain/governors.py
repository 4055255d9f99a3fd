"""What a market's governance and its price feeds can do to it."""

from __future__ import annotations

from typing import Any

from keeper.devchain.artifacts import aave_302, own_contracts
from keeper.devchain.hand import Hand
from keeper.devchain.lending import Market
from keeper.model import Address, address


class Governors(Hand):
    """Price feeds and risk parameters; prices are USD with 8 decimals, risk parameters basis points."""

    def price(self, symbol: str) -> int:
        """What consumers of the feed read."""
        return int(self.rpc.view(self.world.feeds[symbol].proxy, "latestAnswer()", returns="int256"))

    def set_price(self, symbol: str, price: int) -> str:
        """Post a round to the feed's present aggregator."""
        aggregator = self.rpc.view(self.world.feeds[symbol].proxy, "aggregator()", returns="address")
        return self.send(self.world.deployer, aggregator, "post(int256)", price)

    def switch_aggregator(self, symbol: str, price: int) -> Address:
        """Give the feed a new aggregator that starts at `price`; returns its address. The proxy emits nothing."""
        aggregator = self._create(own_contracts()["FeedAggregator"].creation({}, 8, f"{symbol} / USD", price))
        self.send(self.world.deployer, self.world.feeds[symbol].proxy, "switchAggregator(address)", aggregator)
        return aggregator

    def govern(self, market: Market, signature: str, *args: Any) -> str:
        """Call the market's PoolConfigurator as its admin."""
        return self.send(market.admin, market.configurator, signature, *args)

    def set_pause(self, market: Market, symbol: str, *, paused: bool, grace: int = 0) -> str:
        """Pause a reserve, or lift the pause with a grace period in seconds (3.1 and later)."""
        token = self.world.tokens[symbol].address
        if market.revision == 1:
            assert grace == 0, "3.0.2 knows no grace period"
            return self.govern(market, "setReservePause(address,bool)", token, paused)
        return self.govern(market, "setReservePause(address,bool,uint40)", token, paused, grace)

    def set_frozen(self, market: Market, symbol: str, *, frozen: bool) -> str:
        """Freeze a reserve (3.6 also sets its LTV to zero), or thaw it."""
        return self.govern(market, "setReserveFreeze(address,bool)", self.world.tokens[symbol].address, frozen)

    def configure_collateral(self, market: Market, symbol: str, ltv: int, threshold: int, bonus: int) -> str:
        """Loan-to-value, liquidation threshold and bonus (10500 is 5 %)."""
        signature = "configureReserveAsCollateral(address,uint256,uint256,uint256)"
        return self.govern(market, signature, self.world.tokens[symbol].address, ltv, threshold, bonus)

    def set_protocol_fee(self, market: Market, symbol: str, fee: int) -> str:
        """The protocol's share of the liquidation bonus."""
        signature = "setLiquidationProtocolFee(address,uint256)"
        return self.govern(market, signature, self.world.tokens[symbol].address, fee)

    def set_emode_category(
        self, market: Market, number: int, ltv: int, threshold: int, bonus: int, label: str = "changed"
    ) -> str:
        """Add an e-mode or change its parameters."""
        if market.revision == 1:
            signature = "setEModeCategory(uint8,uint16,uint16,uint16,address,string)"
            return self.govern(market, signature, number, ltv, threshold, bonus, "0x" + 40 * "0", label)
        signature = "setEModeCategory(uint8,uint16,uint16,uint16,string)"
        return self.govern(market, signature, number, ltv, threshold, bonus, label)

    def set_emode_collateral(self, market: Market, symbol: str, number: int, *, enabled: bool) -> str:
        """Whether the asset is collateral in an e-mode; on 3.0.2 its one category becomes `number` or none."""
        token = self.world.tokens[symbol].address
        if market.revision == 1:
            return self.govern(market, "setAssetEModeCategory(address,uint8)", token, number if enabled else 0)
        return self.govern(market, "setAssetCollateralInEMode(address,uint8,bool)", token, number, enabled)

    def set_flash_premium(self, market: Market, premium: int) -> str:
        """The flash-loan premium."""
        name = "updateFlashloanPremiumTotal" if market.revision == 1 else "updateFlashloanPremium"
        return self.govern(market, f"{name}(uint128)", premium)

    def set_flash_enabled(self, market: Market, symbol: str, *, enabled: bool) -> str:
        """Whether the reserve lends for one transaction."""
        return self.govern(market, "setReserveFlashLoaning(address,bool)", self.world.tokens[symbol].address, enabled)

    def set_oracle_source(self, market: Market, symbol: str, source: Address) -> str:
        """Point the market's oracle at another feed for one asset (emits AssetSourceUpdated)."""
        assets = [self.world.tokens[symbol].address]
        return self.send(market.admin, market.oracle, "setAssetSources(address[],address[])", assets, [source])

    def install_sentinel(self, market: Market, grace: int) -> Address:
        """Give the market a price-oracle sentinel, grace in seconds; returns the sequencer feed it reads."""
        sequencer = self._create(aave_302("mocks/oracle/SequencerOracle").creation({}, market.admin))
        code = aave_302("protocol/configuration/PriceOracleSentinel")
        sentinel = self._create(code.creation({}, market.addresses_provider, sequencer, grace))
        self.send(market.admin, market.addresses_provider, "setPriceOracleSentinel(address)", sentinel)
        return sequencer

    def set_sequencer(self, market: Market, sequencer: Address, *, down: bool, since: int) -> str:
        """Say that the sequencer is down, or up again, since a time."""
        return self.send(market.admin, sequencer, "setAnswer(bool,uint256)", down, since)

    def new_feed(self, symbol: str, price: int) -> Address:
        """A second feed for `symbol`, not yet used by anybody; returns its proxy."""
        own = own_contracts()
        aggregator = self._create(own["FeedAggregator"].creation({}, 8, f"{symbol} / USD", price))
        return self._create(own["FeedProxy"].creation({}, aggregator))

    def _create(self, code: bytes) -> Address:
        receipt = self.rpc.request("eth_getTransactionReceipt", self.submit(self.world.deployer, None, code))
        return address(receipt["contractAddress"])
