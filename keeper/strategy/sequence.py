"""One order for all of a pass's plans, whatever their markets: each is for the state that those before it leave behind.

Best first with lazy re-evaluation: the plan with the highest net is taken; the next one as it is while nothing taken
touches what it needs, else it is planned anew behind what was taken and takes its place by its new net. A net mostly
falls while it waits; where a trade the other way makes it rise, it is looked at again at once. Those who get in one
another's way are then tried as leaders, place by place, as far as the work allowed suffices.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Generator, Iterator
from collections.abc import Sequence as Several
from dataclasses import dataclass, field, replace
from typing import Protocol

from keeper.errors import BadData
from keeper.model import Plan, Skip, SkipReason
from keeper.strategy.favour import Favours, favoured
from keeper.strategy.needs import Key, Needs
from keeper.strategy.opportunity import Opportunity
from keeper.strategy.value import native
from keeper.strategy.wake import Wake

_Order = tuple[int, str, str, int]  # minus the net, market, borrower, place among the open
TOO_MANY = "too many plans of this pass depend on one another to plan it anew"
LEADERS = 6  # how many are tried in each place
BPS = 10_000
SAME_BPS = 100  # nets that differ by less are as good as one another, and so are orders
EAGER = 10  # the whole work allowed is worth it where a tenth of what is at stake may still be won
HOPEFUL = 4  # how many that do not pay alone are tried again when trades the other way make them better


class Replanner(Protocol):
    """Plans positions anew; `strategy.scene.Scene` is one."""

    @property
    def wake(self) -> Wake: ...

    def stands(self, one: Opportunity, wake: Wake) -> bool: ...

    def again(self, one: Opportunity, wake: Wake) -> Opportunity | None: ...


@dataclass(frozen=True, slots=True)
class Taken:
    """A plan in its place. `behind`: places of those whose effects it counts on."""

    opportunity: Opportunity
    plan: Plan
    behind: frozenset[int]
    covers: tuple[Opportunity, ...] = ()  # positions that the same call takes


@dataclass(frozen=True, slots=True)
class _Made:
    """A position planned on some state. The keys are the plans, by identity, that counted there."""

    opportunity: Opportunity | None  # None: nothing of it is left
    plan: Plan | None
    needs: Needs  # where there is no plan: of the plan before
    movers: tuple[int, ...] = ()
    sharers: tuple[int, ...] = ()
    why: str = ""


@dataclass(slots=True)
class _Run:
    """One order: the places taken so far, and how everybody else ended."""

    wake: Wake
    made: list[tuple[int, _Made, Plan]] = field(default_factory=list)  # place in the list of the open, plan
    ended: dict[int, tuple[_Made, str]] = field(default_factory=dict)
    owners: dict[Key, int] = field(default_factory=dict)  # position -> place in `made`
    net: int = 0

    def movers(self, needs: Needs) -> tuple[int, ...]:
        return tuple(id(plan) for _, made, plan in self.made if needs.moved(made.needs))

    def sharers(self, needs: Needs) -> tuple[int, ...]:
        return tuple(id(plan) for _, made, plan in self.made if needs.shares(made.needs))

    def take(self, index: int, made: _Made, plan: Plan) -> None:
        self.owners |= dict.fromkeys(made.needs.positions, len(self.made))
        self.made.append((index, made, plan))
        self.wake = self.wake.after(plan)
        self.net += plan.net


class Sequence:
    """The opportunities of one pass in order. Exhaust `steps`; then read `taken` and `skipped`.

    At most `renewals` plans are made anew; what would need more ends as superseded.
    """

    def __init__(self, found: Several[Opportunity], scene: Replanner, renewals: int) -> None:
        self._scene = scene
        self._left = self._renewals = renewals
        self._found = found
        able = [one for one in found if one.skip is None and one.choice.plan is not None]
        self._open = [*able, *_hopeful(found)]
        self._known = [[_Made(one, plan, Needs.at_first(one))] for one in self._open for plan in (one.choice.plan,)]
        self._best = _Run(scene.wake)
        self._favours = Favours(self._open)

    @property
    def wake(self) -> Wake:
        """The state behind everything taken."""
        return self._best.wake

    @property
    def taken(self) -> tuple[Taken, ...]:
        """The plans to carry out, in this order."""
        run = self._best
        covers: dict[int, list[Opportunity]] = {}
        chosen = {id(made.opportunity) for _, made, _ in run.made} | {id(self._open[index]) for index, _, _ in run.made}
        for one in self._found:
            owner = run.owners.get(one.key)
            if owner is not None and id(one) not in chosen:
                covers.setdefault(owner, []).append(one)
        return tuple(
            Taken(made.opportunity, plan, self._behind(place), tuple(covers.get(place, ())))
            for place, (_, made, plan) in enumerate(run.made)
            if made.opportunity is not None
        )

    @property
    def skipped(self) -> tuple[tuple[Opportunity, Skip], ...]:
        """Everybody else, with the reason on the state that counts."""
        run = self._best
        ended = {id(self._open[index]): self._end(index, made, why) for index, (made, why) in run.ended.items()}
        closed = [(one, one.skip) for one in self._found if one.skip is not None and id(one) not in ended]
        return tuple(item for item in (*closed, *ended.values()) if item[0].key not in run.owners)

    @property
    def ceiling(self) -> int | None:
        """About the most that any order nets: everybody as if alone.

        None where somebody may be helped by others, as trades or nets show. What remains is a way for the profit alone
        that others' trades open.
        """
        if not self._favours.one_way:
            return None
        alone = [_net(known[0]) for known in self._known]
        risen = any(not _same(made.net, alone[index]) for index, _, made in self._best.made if made.net > alone[index])
        return None if risen else sum(alone)

    def hurry(self) -> None:
        """Plan nothing more anew: what stands is taken, the rest ends as superseded."""
        self._left = 0

    def steps(self) -> Iterator[None]:
        """Do the work; after each plan taken or made anew others may have a turn."""
        yield from self._run(self._best, ())
        most = self.ceiling
        if most is not None:
            self._left = min(self._left, self._renewals * (most - self._best.net) * EAGER // max(most, 1))
        lead: tuple[int, ...] = ()
        while len(lead) < len(self._open) - 1 and self._hopes(most):
            for leader in self._leaders(lead):
                if not self._hopes(most):
                    return
                run = _Run(self._scene.wake)
                yield from self._run(run, (*lead, leader), None if most is None else self._best.net)
                if run.net > self._best.net:
                    self._best = run
            if len(self._best.made) <= len(lead):
                return
            lead = tuple(index for index, _, _ in self._best.made[: len(lead) + 1])
            yield

    def _hopes(self, most: int | None) -> bool:
        """Whether there is work left, and something to be won by it."""
        return self._left > 0 and (most is None or not _same(self._best.net, most))

    def _leaders(self, lead: tuple[int, ...]) -> list[int]:
        """Whom to try behind `lead`: those whom somebody else gets in the way of, by what they earn alone."""
        first = [known[0] for known in self._known]
        rest = [index for index, made in enumerate(first) if made.plan is not None and index not in lead]
        traders = Counter(pool for index in rest for pool in first[index].needs.pools)
        torn = [index for index in rest if first[index].needs.contested(traders)]
        return heapq.nsmallest(LEADERS, torn, key=lambda index: _order(first[index], index))

    def _run(self, run: _Run, lead: tuple[int, ...], least: int | None = None) -> Iterator[None]:
        """Best first, but for those who lead; given up when nets that only fall cannot come to more than `least`."""
        waiting = {index: known[0] for index, known in enumerate(self._known)}
        heap: list[_Order] = []
        for index in lead:
            yield from self._serve(run, index, waiting, heap)
        heap[:] = [_order(made, index) for index, made in waiting.items() if made.plan is not None]
        heapq.heapify(heap)
        while heap and (least is None or run.net + sum(map(_net, waiting.values())) > least):
            order = heapq.heappop(heap)
            index = order[-1]
            if index in waiting and order == _order(waiting[index], index):  # else looked at again in the meantime
                yield from self._serve(run, index, waiting, heap)
                yield
        for index, made in waiting.items():  # never worth a try
            run.ended[index] = made, ""

    def _serve(self, run: _Run, index: int, waiting: dict[int, _Made], heap: list[_Order]) -> Iterator[None]:
        """Take the plan, or let the position end, or wait again with a plan of another net."""
        before = waiting.pop(index)
        if self._open[index].key in run.owners:
            return
        made = yield from self._look(run, index, before)
        if made is None or made.plan is None:
            run.ended[index] = (before, TOO_MANY) if made is None else (made, made.why)
        elif (
            made.opportunity is before.opportunity
            or not heap
            or made.plan.net >= -heap[0][0]
            or _same(made.plan.net, -heap[0][0])
            or self._left < 2 * len(waiting)  # what work is left had better serve each of the others once
        ):
            run.take(index, made, made.plan)
            yield from self._favour(run, made.plan, waiting, heap)
        else:
            waiting[index] = made
            heapq.heappush(heap, _order(made, index))

    def _favour(self, run: _Run, plan: Plan, waiting: dict[int, _Made], heap: list[_Order]) -> Iterator[None]:
        """Those for whom `plan`, just taken, has made things better, by their new nets."""
        if not self._favours.come_from(plan):
            return
        for index, before in list(waiting.items()):
            if self._left < 2 * len(waiting):
                return
            if self._open[index].key in run.owners or not favoured(self._open[index], before.plan, plan):
                continue
            made = yield from self._look(run, index, before)
            if made is not None and made.plan is not None and made is not before:
                waiting[index] = made
                heapq.heappush(heap, _order(made, index))

    def _look(self, run: _Run, index: int, before: _Made) -> Generator[None, None, _Made | None]:
        """The position on the state of `run`; None when that would be more work than is allowed."""
        known = self._known[index]
        others = (m for m in known if m is not before)
        fits = (m for m in (before, *others) if m.movers == run.movers(m.needs) and m.sharers == run.sharers(m.needs))
        made = next(fits, None)
        if made is None and before.opportunity is not None and before.movers == run.movers(before.needs):
            made = self._standing(run, before)
        if made is None and self._left > 0:
            made = self._renew(run, before)
            known.append(made)
            yield
        return made

    def _standing(self, run: _Run, before: _Made) -> _Made | None:
        """The plan as it is, where only its market has changed and lets it do exactly what it says; else None."""
        try:
            if before.opportunity is None or not self._scene.stands(before.opportunity, run.wake):
                return None
        except BadData:
            return None
        return replace(before, sharers=run.sharers(before.needs))

    def _renew(self, run: _Run, before: _Made) -> _Made:
        self._left -= 1
        again: Opportunity | None = None
        why = "nothing of the position is left behind it, or that cannot be foreseen"
        try:
            if before.opportunity is not None:
                again = self._scene.again(before.opportunity, run.wake)
        except BadData as error:
            why = str(error)
        plan = again.choice.plan if again is not None and again.skip is None else None
        needs = before.needs
        if plan is not None:
            needs = Needs.of(plan)
            self._favours.add(plan)
        return _Made(again, plan, needs, run.movers(needs), run.sharers(needs), why if again is None else "")

    def _behind(self, place: int) -> frozenset[int]:
        """What moves the plan's pools, and for one planned anew what it shares a market with."""
        made = self._best.made
        index, mine, _ = made[place]
        fresh = mine.opportunity is not self._open[index]
        return frozenset(
            number
            for number, (_, other, _) in enumerate(made[:place])
            if mine.needs.moved(other.needs) or (fresh and mine.needs.shares(other.needs))
        )

    def _end(self, index: int, made: _Made, why: str) -> tuple[Opportunity, Skip]:
        alone, again, before = self._open[index], made.opportunity, self._known[index][0]
        if again is alone and alone.skip is not None:
            return alone, alone.skip
        better = next(
            plan
            for _, other, plan in self._best.made
            if any(needs.moved(other.needs) or needs.shares(other.needs) for needs in (made.needs, before.needs))
        )
        first, net = f"the plan for {better.borrower} in {better.market}", before.plan.net if before.plan else 0
        if again is not None and again.skip is not None:
            numbers = {**again.skip.numbers, "net_alone": net, "better_net": better.net}
            return again, Skip(again.skip.reason, f"behind {first}: {again.skip.detail}", numbers)
        text = f"nets {native(net)} native alone, but {first}, which nets {native(better.net)}, comes first: {why}"
        return alone, Skip(SkipReason.SUPERSEDED, text, {"net": net, "better_net": better.net})


def _order(made: _Made, index: int) -> _Order:
    plan = made.plan
    return (0, "", "", index) if plan is None else (-plan.net, plan.market, plan.borrower, index)


def _net(made: _Made) -> int:
    return 0 if made.plan is None else max(made.plan.net, 0)


def _same(one: int, other: int) -> bool:
    """Whether they differ by no more than `SAME_BPS` of the larger."""
    return abs(one - other) * BPS <= max(one, other) * SAME_BPS


def _hopeful(found: Several[Opportunity]) -> list[Opportunity]:
    """Those that do not pay alone though their bonus would pay for the gas, the nearest first."""

    near: list[tuple[int, int]] = []
    for place, one in enumerate(found):
        skip = one.choice.skip
        if skip is not None and skip.reason is SkipReason.UNPROFITABLE:
            numbers = skip.numbers
            if numbers.get("bonus", 0) > numbers.get("gas_cost", 0):
                near.append((-numbers.get("net", 0), place))
    return [found[place] for _, place in sorted(near)[:HOPEFUL]]
