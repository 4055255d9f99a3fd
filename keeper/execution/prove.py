"""From plans to orders: compose the very transactions, have the node run them, and let its results decide."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from keeper.execution.compose import compose
from keeper.execution.data_fees import DataCost, DataFee, NoDataFee
from keeper.execution.executor import Settlement, encode_execute
from keeper.execution.fees import BPS, USUAL_CALLDATA, Bid, FeePolicy, bid, highest_base_fee, paid, spendable
from keeper.execution.signer import Unsigned
from keeper.execution.simulate import Simulator, Trial
from keeper.execution.submit import new_attempt_id
from keeper.model import Address, FeeQuote, Head, Order, Plan, Route, Simulation, Skip, SkipReason, TxKind
from keeper.ports import FlashSource, Liquidation, Proof, Renewal, Venue

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


@dataclass(frozen=True, slots=True)
class _Job:
    id: str
    plan: Plan
    liquidation: Liquidation
    least: Bid | None = None  # what has to be outbid


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
        data_fee: DataFee | None = None,
    ) -> None:
        self._simulator = simulator
        self._policy = policy
        self._venues = venues
        self._sources = sources
        self._settings = settings
        self._new_id = new_id
        self._data_fee = data_fee or NoDataFee()

    async def prove(self, jobs: Sequence[tuple[Plan, Liquidation]], head: Head, fees: FeeQuote) -> list[Proof]:
        """One proof per job, in order. Raises Transient when the node cannot answer for this head."""
        return await self._run([_Job(self._new_id(), plan, way) for plan, way in jobs], head, fees)

    async def renew(self, jobs: Sequence[Renewal], head: Head, fees: FeeQuote) -> list[Proof]:
        """Implements `ports.Renewer`: with the attempts' own ids, and fees that outbid what is out there."""
        least = [Bid(0, job.least_max_fee, job.least_tip) for job in jobs]
        renewals = [_Job(j.attempt_id, j.plan, j.liquidation, bid_) for j, bid_ in zip(jobs, least, strict=True)]
        return await self._run(renewals, head, fees)

    async def _run(self, jobs: Sequence[_Job], head: Head, fees: FeeQuote) -> list[Proof]:
        calls = [self._calldata(job.plan, job.liquidation, job.id) for job in jobs]
        trials = [self._trial(job.plan, data, fees) for job, data in zip(jobs, calls, strict=True)]
        results, costs = await asyncio.gather(
            self._simulator.run(head, head.timestamp + self._settings.block_time, trials),
            self._data_fee.price(self._unsigned(trials), head),
        )
        return [
            self._judge(job, data, result, head, fees, cost)
            for job, data, result, cost in zip(jobs, calls, results, costs, strict=True)
        ]

    async def prove_behind(
        self, first: Mapping[str, str] | None, jobs: Sequence[tuple[Plan, Liquidation]], head: Head, fees: FeeQuote
    ) -> list[Proof]:
        """The same directly behind the call object `first` in the next block.

        None stands for a transaction that only somebody else's relay has: nothing can be simulated then, and the plan's
        own numbers make the order. That is for bundles only, which cost nothing when they fail, and the executor's
        floor holds.
        """
        work = [_Job(self._new_id(), plan, way) for plan, way in jobs]
        calls = [self._calldata(job.plan, job.liquidation, job.id) for job in work]
        trials = [self._trial(job.plan, data, fees) for job, data in zip(work, calls, strict=True)]
        if first is None:
            results = [self._planned(plan, head) for plan, _ in jobs]
        else:
            timestamp = head.timestamp + self._settings.block_time
            results = await self._simulator.behind(first, head, timestamp, trials)
        costs = await self._data_fee.price(self._unsigned(trials), head)
        return [
            self._judge(job, data, result, head, fees, cost)
            for job, data, result, cost in zip(work, calls, results, costs, strict=True)
        ]

    def _planned(self, plan: Plan, head: Head) -> Simulation:
        kept = plan.gain - plan.gain * self._coinbase_bps(plan) // BPS
        return Simulation(head, ok=True, gain=kept, gas_used=plan.gas)

    def floor(self, plan: Plan, size: int = 0) -> int:
        """The least gain the executor accepts, wei: what gas and the profit floor need, and no more slippage than set.

        It travels in the calldata, so it holds against whatever happens between simulation and inclusion. The plan
        counts the data of a transaction of usual size; of one with `size` bytes of calldata what is longer is added.
        """
        kept = plan.gain - plan.gain * self._coinbase_bps(plan) // BPS  # the contract's floor is after its payment
        slipped = kept - kept * self._settings.slippage_bps // BPS
        usual = len(USUAL_CALLDATA)
        longer = -(-plan.fees.data_fee * max(size - usual, 0) // usual)
        return max(slipped, plan.cost + longer + self._settings.min_net)

    def _calldata(self, plan: Plan, liquidation: Liquidation, key: str) -> bytes:
        settings = self._settings
        program = compose(plan, liquidation, self._venues, self._sources, settings.executor)
        deadline = plan.head.timestamp + settings.block_time + settings.lateness
        settlement = Settlement(
            bytes.fromhex(key[2:]), self.floor(plan), settings.wrapped_native, deadline, self._coinbase_bps(plan)
        )
        data = encode_execute(program, settlement)
        if (floor := self.floor(plan, len(data))) == settlement.min_gain:
            return data
        return encode_execute(program, replace(settlement, min_gain=floor))

    def _coinbase_bps(self, plan: Plan) -> int:
        return self._policy.coinbase_bps if plan.profit_token == self._settings.wrapped_native else 0

    def _unsigned(self, trials: Sequence[Trial]) -> list[Unsigned]:
        """As they would be signed, at a nonce that takes as many bytes as any."""
        to = self._settings.executor
        return [Unsigned(TxKind.EXECUTE, 1 << 16, to, t.data, t.gas_limit, t.max_fee, t.tip) for t in trials]

    @staticmethod
    def _trial(plan: Plan, data: bytes, fees: FeeQuote) -> Trial:
        limit = plan.gas * 3 // 2 + _SPARE_GAS
        return Trial(data, limit, highest_base_fee(fees.base_fee, 1) + fees.tip, fees.tip)

    def _judge(self, job: _Job, data: bytes, ran: Simulation, head: Head, fees: FeeQuote, cost: DataCost) -> Proof:
        plan = job.plan
        if not ran.ok:
            reason = ran.revert or "reverted without a reason"
            short = reason.startswith("GainTooLow")
            kind = SkipReason.SIMULATION_SHORT if short else SkipReason.SIMULATION_REVERTED
            numbers = {"predicted_gain": plan.gain, "floor": self.floor(plan, len(data)), "gas_used": ran.gas_used}
            return Proof(plan, ran, skip=Skip(kind, f"the simulation at block {head.number} failed: {reason}", numbers))
        offer = bid(self._policy, fees, ran.gain, ran.gas_used, cost, job.least)
        if offer is None:
            most = spendable(self._policy, ran.gain)
            numbers = {"gain": ran.gain, "gas_used": ran.gas_used, "base_fee": fees.base_fee, "most": most}
            text = "the share of the simulated gain that may be spent does not pay the base fee"
            if job.least is not None:
                numbers["least"] = job.least.max_fee
                text = "the share of the simulated gain that may be spent does not outbid what was sent"
            return Proof(plan, ran, skip=Skip(SkipReason.SIMULATION_SHORT, text, numbers))
        gas_used = ran.gas_used + cost.gas
        net = ran.gain - gas_used * paid(fees, offer).price - cost.wei
        if net < self._settings.min_net:
            numbers = {"gain": ran.gain, "gas_used": gas_used, "net": net, "limit": self._settings.min_net}
            text = "the simulation earns less than the profit floor"
            return Proof(plan, ran, skip=Skip(SkipReason.SIMULATION_SHORT, text, numbers))
        return Proof(plan, ran, order=self._order(job, data, replace(ran, gas_used=gas_used), net, offer, head))

    def _order(self, job: _Job, data: bytes, ran: Simulation, net: int, offer: Bid, head: Head) -> Order:
        plan = job.plan
        return Order(
            id=job.id,
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
