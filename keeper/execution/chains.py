"""Jobs that count on one another, and what to make of it when one of them comes to nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keeper.ports import Job, Proof


def chains(jobs: Sequence[Job]) -> list[tuple[int, ...]]:
    """The places of the jobs in groups that do not count on one another, each in order."""
    group: list[int] = []  # by place: the first place of its group
    for place, job in enumerate(jobs):
        group.append(place)
        joined = {group[other] for other in job.behind}
        group = [place if found in joined else found for found in group]
    found: dict[int, list[int]] = {}
    for place, first in enumerate(group):
        found.setdefault(first, []).append(place)
    return [tuple(places) for places in sorted(found.values())]


def before(jobs: Sequence[Job], place: int) -> frozenset[int]:
    """The places of everything a job counts on, directly or not."""
    found: set[int] = set()
    waiting = list(jobs[place].behind)
    while waiting:
        other = waiting.pop()
        if other not in found:
            found.add(other)
            waiting += jobs[other].behind
    return frozenset(found)


def wasted(jobs: Sequence[Job], chain: Sequence[int], proofs: Mapping[int, Proof]) -> frozenset[int]:
    """Those that ran and are not worth sending although later ones of the chain count on them."""
    idle = {place for place in chain if proofs[place].order is None and _ran(proofs[place])}
    return frozenset(idle & {other for place in chain if place not in idle for other in before(jobs, place)})


def ran_before(jobs: Sequence[Job], place: int, proofs: Mapping[int, Proof]) -> tuple[int, ...]:
    """Of what a job counts on, what ran before it: what failed has left no trace."""
    return tuple(sorted(other for other in before(jobs, place) if _ran(proofs[other])))


def _ran(proof: Proof) -> bool:
    return proof.simulation is not None and proof.simulation.ok
