"""From plans to orders: compose the very transactions, have the node run them, and let its results decide."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from keeper.execution.chains import chains, ran_before, wasted
from keeper.execution.compose import compose, compose_items
from keeper.execution.data_fees import DataCost, DataFee, NoDataFee
from keeper.execution.executor import Settlement, encode_execute
from keeper.execution.fees import BPS, USUAL_CALLDATA, Bid, FeePolicy, bid, highest_base_fee, paid, spendable
from keeper.execution.signer import Unsigned
from keeper.execution.simulate import Simulator, Trial
from keeper.execution.submit import new_attempt_id
from keeper.model import Address, FeeQuote, Head, Order, Plan, Route, Simulation, Skip, SkipReason, TxKind
from keeper.ports import FlashSource, Job, Proof, Renewal, Venue

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
class _Work:
    id: str
    job: Job
    least: Bid | None = None  # what has to be outbid


@dataclass(frozen=True, slots=True)
class _Drawn:
    """The transactions of some work, with what their data costs."""

    work: Sequence[_Work]
    trials: Sequence[Trial]
    costs: Sequence[DataCost]


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

    async def prove(self, jobs: Sequence[Job], head: Head, fees: FeeQuote) -> list[Proof]:
        """One proof per job, in order. Raises Transient when the node cannot answer for this head."""
        return await self._run([_Work(self._new_id(), job) for job in jobs], head, fees)

    async def renew(self, jobs: Sequence[Renewal], head: Head, fees: FeeQuote) -> list[Proof]:
        """Implements `ports.Renewer`: with the attempts' own ids, and fees that outbid what is out there."""
        work = [_Work(j.attempt_id, j.job, Bid(0, j.least_max_fee, j.least_tip)) for j in jobs]
        return await self._run(work, head, fees)

    async def _run(self, work: Sequence[_Work], head: Head, fees: FeeQuote) -> list[Proof]:
        jobs = [each.job for each in work]
        trials = [self._trial(each, fees) for each in work]
        groups = chains(jobs)
        results, costs = await asyncio.gather(
            self._simulate(groups, trials, head), self._data_fee.price(self._unsigned(trials), head)
        )
        drawn = _Drawn(work, trials, costs)
        proofs = {place: self._judge(drawn, place, ran, head, fees) for place, ran in results.items()}
        # What is not worth sending after all must not have run before what is.
        again = [(group, bad) for group in groups if (bad := wasted(jobs, group, proofs))]
        if again:
            shorter = [tuple(place for place in group if place not in bad) for group, bad in again]
            for place, ran in (await self._simulate(shorter, trials, head)).items():
                proofs[place] = self._judge(drawn, place, ran, head, fees)
        return self._linked(jobs, groups, proofs, frozenset(place for _, bad in again for place in bad))

    async def _simulate(
        self, groups: Sequence[Sequence[int]], trials: Sequence[Trial], head: Head
    ) -> dict[int, Simulation | None]:
        """By place; None where the node cannot run one transaction behind another."""
        timestamp = head.timestamp + self._settings.block_time
        found = await self._simulator.in_order(head, timestamp, [[trials[place] for place in g] for g in groups])
        return {
            place: ran for g, results in zip(groups, found, strict=True) for place, ran in zip(g, results, strict=True)
        }

    def _linked(
        self, jobs: Sequence[Job], groups: Sequence[Sequence[int]], proofs: Mapping[int, Proof], out: frozenset[int]
    ) -> list[Proof]:
        """The proofs in order, each with what ran before it, and with one key for each chain of them.

        Those in `out` had run when they were proved, but not when the others were.
        """
        first = {place: group[0] for group in groups for place in group if len(group) > 1}
        linked: list[Proof] = []
        for place in range(len(jobs)):
            proof = proofs[place]
            behind = tuple(other for other in ran_before(jobs, place, proofs) if other not in out)
            if proof.order is not None and any(linked[other].order is None for other in behind):
                why = "another transaction of this pass, which it was simulated behind, is not worth sending"
                proof = replace(proof, order=None, skip=Skip(SkipReason.SUPERSEDED, why))
            if proof.order is not None and place in first:
                proof = replace(proof, order=replace(proof.order, chain=f"{proof.order.head.hash} {first[place]}"))
            linked.append(replace(proof, behind=behind))
        return linked

    async def prove_behind(
        self, first: Mapping[str, str] | None, jobs: Sequence[Job], head: Head, fees: FeeQuote
    ) -> list[Proof]:
        """Each job directly behind the call object `first` in the next block, and behind nothing else.

        None stands for a transaction that only somebody else's relay has: nothing can be simulated then, and the plan's
        own numbers make the order. That is for bundles only, which cost nothing when they fail, and the executor's
        floor holds.
        """
        work = [_Work(self._new_id(), job) for job in jobs]
        trials = [self._trial(each, fees) for each in work]
        if first is None:
            results = [self._planned(job, head) for job in jobs]
        else:
            timestamp = head.timestamp + self._settings.block_time
            results = await self._simulator.behind(first, head, timestamp, trials)
        drawn = _Drawn(work, trials, await self._data_fee.price(self._unsigned(trials), head))
        return [self._judge(drawn, place, ran, head, fees) for place, ran in enumerate(results)]

    def _planned(self, job: Job, head: Head) -> Simulation:
        return Simulation(head, ok=True, gain=self._kept(job), gas_used=sum(plan.gas for plan in job.plans))

    def _kept(self, job: Job) -> int:
        """The planned gain after the payment to the coinbase, wei."""
        gain = sum(plan.gain for plan in job.plans)
        return gain - gain * self._coinbase_bps(job) // BPS

    def floor(self, job: Job, size: int = 0) -> int:
        """The least gain the executor accepts, wei: what gas and the profit floor need, and no more slippage than set.

        It travels in the calldata, so it holds against whatever happens between simulation and inclusion. The plan
        counts the data of a transaction of usual size; of one with `size` bytes of calldata what is longer is added.
        Of several plans any may be gone by then: the slippage is left to the floor of each (`item_floor`).
        """
        kept, plans = self._kept(job), job.plans  # the contract's floor is after its payment
        slipped = kept - kept * self._settings.slippage_bps // BPS
        usual, fees = len(USUAL_CALLDATA), plans[0].fees
        longer = -(-fees.data_fee * max(size - usual, 0) // usual)
        cost = sum(plan.gas for plan in plans) * fees.price + fees.data_fee
        needed = cost + longer + self._settings.min_net
        return max(slipped, needed) if len(plans) == 1 else needed

    def item_floor(self, plan: Plan) -> int:
        """The least growth of the profit token by one plan of several, wei, before any payment to the coinbase."""
        return plan.gain - plan.gain * self._settings.slippage_bps // BPS

    def _calldata(self, job: Job, key: str) -> bytes:
        settings, last = self._settings, job.plans[-1]
        if len(job.items) == 1:
            program = compose(*job.items[0], self._venues, self._sources, settings.executor)
        else:
            floors = [self.item_floor(plan) for plan in job.plans]
            program = compose_items(job.items, floors, self._venues, self._sources, settings.executor)
        deadline = last.head.timestamp + settings.block_time + settings.lateness
        settlement = Settlement(
            bytes.fromhex(key[2:]), self.floor(job), settings.wrapped_native, deadline, self._coinbase_bps(job)
        )
        data = encode_execute(program, settlement)
        if (floor := self.floor(job, len(data))) == settlement.min_gain:
            return data
        return encode_execute(program, replace(settlement, min_gain=floor))

    def _coinbase_bps(self, job: Job) -> int:
        return self._policy.coinbase_bps if job.plans[0].profit_token == self._settings.wrapped_native else 0

    def _unsigned(self, trials: Sequence[Trial]) -> list[Unsigned]:
        """As they would be signed, at a nonce that takes as many bytes as any."""
        to = self._settings.executor
        return [Unsigned(TxKind.EXECUTE, 1 << 16, to, t.data, t.gas_limit, t.max_fee, t.tip) for t in trials]

    def _trial(self, work: _Work, fees: FeeQuote) -> Trial:
        limit = sum(plan.gas for plan in work.job.plans) * 3 // 2 + _SPARE_GAS
        return Trial(self._calldata(work.job, work.id), limit, highest_base_fee(fees.base_fee, 1) + fees.tip, fees.tip)

    def _judge(self, drawn: _Drawn, place: int, ran: Simulation | None, head: Head, fees: FeeQuote) -> Proof:
        work, cost, data = drawn.work[place], drawn.costs[place], drawn.trials[place].data
        job, least = work.job, work.least
        if ran is None:
            why = (
                "the node cannot run it behind the transactions it counts on (no eth_simulateV1): it is left for later"
            )
            return Proof(job, skip=Skip(SkipReason.SUPERSEDED, why))
        if not ran.ok:
            reason = ran.revert or "reverted without a reason"
            short = reason.startswith("GainTooLow") or "GrowthTooLow(" in reason
            kind = SkipReason.SIMULATION_SHORT if short else SkipReason.SIMULATION_REVERTED
            gain, floor = sum(plan.gain for plan in job.plans), self.floor(job, len(data))
            numbers = {"predicted_gain": gain, "floor": floor, "gas_used": ran.gas_used}
            return Proof(job, ran, skip=Skip(kind, f"the simulation at block {head.number} failed: {reason}", numbers))
        offer = bid(self._policy, fees, ran.gain, ran.gas_used, cost, least)
        if offer is None:
            most = spendable(self._policy, ran.gain)
            numbers = {"gain": ran.gain, "gas_used": ran.gas_used, "base_fee": fees.base_fee, "most": most}
            text = "the share of the simulated gain that may be spent does not pay the base fee"
            if least is not None:
                numbers["least"] = least.max_fee
                text = "the share of the simulated gain that may be spent does not outbid what was sent"
            return Proof(job, ran, skip=Skip(SkipReason.SIMULATION_SHORT, text, numbers))
        gas_used = ran.gas_used + cost.gas
        net = ran.gain - gas_used * paid(fees, offer).price - cost.wei
        if net < self._settings.min_net:
            numbers = {"gain": ran.gain, "gas_used": gas_used, "net": net, "limit": self._settings.min_net}
            text = "the simulation earns less than the profit floor"
            return Proof(job, ran, skip=Skip(SkipReason.SIMULATION_SHORT, text, numbers))
        return Proof(job, ran, order=self._order(work, data, replace(ran, gas_used=gas_used), net, offer, head))

    def _order(self, work: _Work, data: bytes, ran: Simulation, net: int, offer: Bid, head: Head) -> Order:
        positions = positions_of(work.job.plans)
        return Order(
            id=work.id,
            market=positions[0][0],
            borrower=positions[0][1],
            to=self._settings.executor,
            data=data,
            gas_limit=offer.gas_limit,
            max_fee=offer.max_fee,
            tip=offer.tip,
            head=head,
            predicted_gain=ran.gain,
            predicted_gas=ran.gas_used,
            predicted_net=net,
            plan=summary(work.job.plans),
            others=positions[1:],
        )


def positions_of(plans: Sequence[Plan]) -> tuple[tuple[str, Address], ...]:
    """Market and borrower of everything the plans take, each once."""
    return tuple(dict.fromkeys((p.market, borrower) for p in plans for borrower in (p.borrower, *p.others)))


def summary(plans: Sequence[Plan]) -> dict[str, str | int]:
    """What the journal keeps of plans; amounts as decimal text of base units. Of several, the first one's numbers."""
    plan, gain, gas = plans[0], sum(plan.gain for plan in plans), sum(plan.gas for plan in plans)
    told = _summary(plan) | {"planned_gain": str(gain), "planned_gas": gas}
    if len(plans) > 1:
        told["items"] = "; ".join(
            f"{p.borrower} in {p.market}: {p.seizure.repaid} {p.debt.symbol} for {p.seizure.seized}"
            f" {p.collateral.symbol}, gain {p.gain}"
            for p in plans
        )
    return told


def _summary(plan: Plan) -> dict[str, str | int]:
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
