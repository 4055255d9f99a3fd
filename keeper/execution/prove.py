"""From plans to orders: compose the very transactions, have the node run them, and let its results decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from keeper.execution.compose import compose
from keeper.execution.executor import Settlement, encode_execute
from keeper.execution.fees import BPS, Bid, FeePolicy, bid, highest_base_fee, paid, spendable
from keeper.execution.simulate import Simulator, Trial
from keeper.execution.submit import new_attempt_id
from keeper.model import Address, FeeQuote, Head, Order, Plan, Route, Simulation, Skip, SkipReason
from keeper.ports import FlashSource, Liquidation, Proof, Venue

_SPARE_GAS = 300_000  # beside half as much again as estimated: only a limit for the simulation, nobody pays it


@dataclass(frozen=True, slots=True)
class ProofSettings:
    """What a proof must show. `slippage_bps`: how much less than planned the executor accepts; it is the sandwich's
    margin. `lateness` in seconds: after the expected inclusion the executor refuses.
    """

    executor: Address
    wrapped_native: Address
    min_net: int  # wei
    slippage_bps: int
    block_time: int  # seconds
    lateness: int


class TransactionProver:
    """Implements `ports.Prover` by `Simulator`; every order's calldata is the simulated one, byte for byte."""

    def __init__(
        self,
        simulator: Simulator,
        policy: FeePolicy,
        venues: Mapping[str, Venue],
        sources: Mapping[str, FlashSource],
        settings: ProofSettings,
        new_id: Callable[[], str] = new_attempt_id,
    ) -> None:
        self._simulator = simulator
        self._policy = policy
        self._venues = venues
        self._sources = sources
        self._settings = settings
        self._new_id = new_id

    async def prove(self, jobs: Sequence[tuple[Plan, Liquidation]], head: Head, fees: FeeQuote) -> list[Proof]:
        """One proof per job, in order. Raises Transient when the node cannot answer for this head."""
        ids = [self._new_id() for _ in jobs]
        calls = [self._calldata(plan, way, key) for (plan, way), key in zip(jobs, ids, strict=True)]
        trials = [self._trial(plan, data, fees) for (plan, _), data in zip(jobs, calls, strict=True)]
        results = await self._simulator.run(head, head.timestamp + self._settings.block_time, trials)
        return [
            self._judge(plan, key, data, result, head, fees)
            for (plan, _), key, data, result in zip(jobs, ids, calls, results, strict=True)
        ]

    async def prove_behind(
        self, first: Mapping[str, str] | None, jobs: Sequence[tuple[Plan, Liquidation]], head: Head, fees: FeeQuote
    ) -> list[Proof]:
        """The same directly behind the call object `first` in the next block.

        None stands for a transaction that only somebody else's relay has: nothing can be simulated then, and the plan's
        own numbers make the order. That is for bundles only, which cost nothing when they fail, and the executor's
        floor holds.
        """
        ids = [self._new_id() for _ in jobs]
        calls = [self._calldata(plan, way, key) for (plan, way), key in zip(jobs, ids, strict=True)]
        trials = [self._trial(plan, data, fees) for (plan, _), data in zip(jobs, calls, strict=True)]
        if first is None:
            results = [self._planned(plan, head) for plan, _ in jobs]
        else:
            timestamp = head.timestamp + self._settings.block_time
            results = await self._simulator.behind(first, head, timestamp, trials)
        return [
            self._judge(plan, key, data, result, head, fees)
            for (plan, _), key, data, result in zip(jobs, ids, calls, results, strict=True)
        ]

    def _planned(self, plan: Plan, head: Head) -> Simulation:
        kept = plan.gain - plan.gain * self._coinbase_bps(plan) // BPS
        return Simulation(head, ok=True, gain=kept, gas_used=plan.gas)

    def floor(self, plan: Plan) -> int:
        """The least gain the executor accepts, wei: what gas and the profit floor need, and no more slippage than set.

        It travels in the calldata, so it holds against whatever happens between simulation and inclusion.
        """
        kept = plan.gain - plan.gain * self._coinbase_bps(plan) // BPS  # the contract's floor is after its payment
        slipped = kept - kept * self._settings.slippage_bps // BPS
        return max(slipped, plan.cost + self._settings.min_net)

    def _calldata(self, plan: Plan, liquidation: Liquidation, key: str) -> bytes:
        settings = self._settings
        program = compose(plan, liquidation, self._venues, self._sources, settings.executor)
        deadline = plan.head.timestamp + settings.block_time + settings.lateness
        settlement = Settlement(
            bytes.fromhex(key[2:]), self.floor(plan), settings.wrapped_native, deadline, self._coinbase_bps(plan)
        )
        return encode_execute(program, settlement)

    def _coinbase_bps(self, plan: Plan) -> int:
        return self._policy.coinbase_bps if plan.profit_token == self._settings.wrapped_native else 0

    @staticmethod
    def _trial(plan: Plan, data: bytes, fees: FeeQuote) -> Trial:
        limit = plan.gas * 3 // 2 + _SPARE_GAS
        return Trial(data, limit, highest_base_fee(fees.base_fee, 1) + fees.tip, fees.tip)

    def _judge(self, plan: Plan, key: str, data: bytes, ran: Simulation, head: Head, fees: FeeQuote) -> Proof:
        if not ran.ok:
            reason = ran.revert or "reverted without a reason"
            short = reason.startswith("GainTooLow")
            kind = SkipReason.SIMULATION_SHORT if short else SkipReason.SIMULATION_REVERTED
            numbers = {"predicted_gain": plan.gain, "floor": self.floor(plan), "gas_used": ran.gas_used}
            return Proof(plan, ran, skip=Skip(kind, f"the simulation at block {head.number} failed: {reason}", numbers))
        offer = bid(self._policy, fees, ran.gain, ran.gas_used)
        if offer is None:
            most = spendable(self._policy, ran.gain)
            numbers = {"gain": ran.gain, "gas_used": ran.gas_used, "base_fee": fees.base_fee, "most": most}
            text = "the share of the simulated gain that may be spent does not pay the base fee"
            return Proof(plan, ran, skip=Skip(SkipReason.SIMULATION_SHORT, text, numbers))
        net = ran.gain - ran.gas_used * paid(fees, offer).price
        if net < self._settings.min_net:
            numbers = {"gain": ran.gain, "gas_used": ran.gas_used, "net": net, "limit": self._settings.min_net}
            text = "the simulation earns less than the profit floor"
            return Proof(plan, ran, skip=Skip(SkipReason.SIMULATION_SHORT, text, numbers))
        return Proof(plan, ran, order=self._order(plan, key, data, ran, net, offer, head))

    def _order(self, plan: Plan, key: str, data: bytes, ran: Simulation, net: int, offer: Bid, head: Head) -> Order:
        return Order(
            id=key,
            market=plan.market,
            borrower=plan.borrower,
            to=self._settings.executor,
            data=data,
            gas_limit=offer.gas_limit,
            max_fee=offer.max_fee,
            tip=offer.tip,
            head=head,
            predicted_gain=ran.gain,
            predicted_gas=ran.gas_used,
            predicted_net=net,
            plan=summary(plan),
        )


def summary(plan: Plan) -> dict[str, str | int]:
    """What the journal keeps of a plan; amounts as decimal text of base units."""
    return {
        "debt": plan.debt.symbol,
        "collateral": plan.collateral.symbol,
        "repaid": str(plan.seizure.repaid),
        "seized": str(plan.seizure.seized),
        "protocol_fee": str(plan.seizure.protocol_fee),
        "health_factor": str(plan.health_factor),
        "funding": plan.loan.source if plan.loan else "flash swap",
        "premium": str(plan.loan.premium if plan.loan else 0),
        "buy": _route(plan.buy),
        "sell": _route(plan.sell),
        "planned_gain": str(plan.gain),
        "planned_gas": plan.gas,
        "block": plan.head.number,
    }


def _route(route: Route | None) -> str:
    """The pools of each path, with what goes in and comes out."""
    if route is None:
        return ""
    paths = (
        " > ".join([str(path.amount_in), *(hop.pool for hop in path.hops), str(path.amount_out)])
        for path in route.paths
    )
    return "; ".join(paths)
