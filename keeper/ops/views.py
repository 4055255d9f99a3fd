"""What commands answer, before it becomes a table or JSON. The JSON fields are documented here.

In JSON, amounts are decimal strings of base units (wei, token units, health factors in wad), addresses are EIP-55,
numbers of blocks, seconds and counts are numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from keeper.model import (
    MAX_UINT256,
    Account,
    Address,
    Candidate,
    Head,
    Hop,
    Plan,
    Route,
    Simulation,
    Skip,
    Token,
    checksum,
)


@dataclass(frozen=True, slots=True)
class ScanRow:
    """One borrower with debt. `base_unit` is what one unit of the market's base currency is in its values."""

    market: str
    account: Account
    base_unit: int

    def json(self) -> dict[str, Any]:
        """market, borrower, health_factor (wad; null without debt), collateral_value, debt_value, base_unit."""
        return {
            "market": self.market,
            "borrower": checksum(self.account.borrower),
            "health_factor": health_json(self.account.health_factor),
            "liquidatable": self.account.health_factor < 10**18,
            "collateral_value": str(self.account.collateral_value),
            "debt_value": str(self.account.debt_value),
            "base_unit": str(self.base_unit),
        }


@dataclass(frozen=True, slots=True)
class ScanView:
    """Every borrower with debt, at one block, the least healthy first."""

    chain_id: int
    head: Head
    rows: tuple[ScanRow, ...]
    unknown: Mapping[str, str] = field(default_factory=dict)  # markets that cannot be trusted: name -> reason

    def json(self) -> dict[str, Any]:
        """chain_id, block, borrowers (list), unknown (market -> reason)."""
        return {
            "chain_id": self.chain_id,
            "block": head_json(self.head),
            "borrowers": [row.json() for row in self.rows],
            "unknown": dict(self.unknown),
        }


@dataclass(frozen=True, slots=True)
class GateRow:
    """One gate's answer for the chosen plan."""

    name: str
    passed: bool
    detail: str
    numbers: Mapping[str, int] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """name, passed, detail, numbers."""
        return {"name": self.name, "passed": self.passed, "detail": self.detail, "numbers": numbers_json(self.numbers)}


@dataclass(frozen=True, slots=True)
class ExplainView:
    """One borrower in one market: every way of liquidating it, the plan, the gates, the simulation, the verdict."""

    chain_id: int
    market: str
    head: Head
    account: Account
    base_unit: int
    native_symbol: str
    candidates: tuple[Candidate, ...] = ()
    refusals: tuple[Skip, ...] = ()  # pairs that are not offered, and why
    plan: Plan | None = None
    gates: tuple[GateRow, ...] = ()
    simulation: Simulation | None = None
    skip: Skip | None = None  # why nothing would be sent; None: it would

    def json(self) -> dict[str, Any]:
        """Fields as named, candidates and gates as lists, plan, simulation and skip null where there is none."""
        return {
            "chain_id": self.chain_id,
            "market": self.market,
            "block": head_json(self.head),
            "borrower": checksum(self.account.borrower),
            "health_factor": health_json(self.account.health_factor),
            "collateral_value": str(self.account.collateral_value),
            "debt_value": str(self.account.debt_value),
            "base_unit": str(self.base_unit),
            "candidates": [candidate_json(candidate) for candidate in self.candidates],
            "refusals": [skip_json(skip) for skip in self.refusals],
            "plan": None if self.plan is None else plan_json(self.plan),
            "gates": [gate.json() for gate in self.gates],
            "simulation": None if self.simulation is None else simulation_json(self.simulation),
            "skip": None if self.skip is None else skip_json(self.skip),
        }


@dataclass(frozen=True, slots=True)
class DemoRow:
    """What happened to one borrower of the demo; amounts in wei of the native token, health factors in wad."""

    market: str
    borrower: Address
    label: str  # what the demo calls it
    expected: str  # liquidate, unprofitable, barred or healthy
    as_expected: bool
    health_factor: int  # when first acted on; without an attempt, at the end
    health_after: int
    done: str  # "liquidated", "would liquidate", "healthy" or the skip's reason
    detail: str
    predicted_net: int | None = None
    realised_net: int | None = None
    tx_hash: str | None = None

    def json(self) -> dict[str, Any]:
        """Fields as named."""
        return {
            "market": self.market,
            "borrower": checksum(self.borrower),
            "label": self.label,
            "expected": self.expected,
            "as_expected": self.as_expected,
            "health_factor": health_json(self.health_factor),
            "health_after": health_json(self.health_after),
            "done": self.done,
            "detail": self.detail,
            "predicted_net": amount_json(self.predicted_net),
            "realised_net": amount_json(self.realised_net),
            "tx_hash": self.tx_hash,
        }


@dataclass(frozen=True, slots=True)
class DemoView:
    """The demo's result."""

    chain_id: int
    mode: str
    seconds: float
    rows: tuple[DemoRow, ...]

    @property
    def earned(self) -> int:
        """Realised net profit in wei."""
        return sum(row.realised_net or 0 for row in self.rows)

    @property
    def predicted(self) -> int:
        """What the simulations promised, in wei."""
        return sum(row.predicted_net or 0 for row in self.rows)

    def json(self) -> dict[str, Any]:
        """chain_id, mode, seconds, predicted and earned (wei), positions (list)."""
        return {
            "chain_id": self.chain_id,
            "mode": self.mode,
            "seconds": round(self.seconds, 1),
            "predicted": str(self.predicted),
            "earned": str(self.earned),
            "positions": [row.json() for row in self.rows],
        }


def amount_json(value: int | None) -> str | None:
    """Base units as a decimal string, which no JSON reader rounds."""
    return None if value is None else str(value)


def health_json(value: int) -> str | None:
    """Wad as a decimal string; None where there is no debt."""
    return None if value == MAX_UINT256 else str(value)


def numbers_json(numbers: Mapping[str, int]) -> dict[str, str]:
    """The numbers behind a decision."""
    return {name: str(value) for name, value in numbers.items()}


def head_json(head: Head) -> dict[str, Any]:
    """number, hash, timestamp, base_fee."""
    return {
        "number": head.number,
        "hash": head.hash,
        "timestamp": head.timestamp,
        "base_fee": str(head.base_fee),
    }


def token_json(token: Token) -> dict[str, Any]:
    """address, symbol, decimals."""
    return {"address": checksum(token.address), "symbol": token.symbol, "decimals": token.decimals}


def skip_json(skip: Skip) -> dict[str, Any]:
    """reason, detail, numbers."""
    return {"reason": str(skip.reason), "detail": skip.detail, "numbers": numbers_json(skip.numbers)}


def candidate_json(candidate: Candidate) -> dict[str, Any]:
    """debt, collateral, repay, seized, funding, gain, gas, net, note."""
    return {
        "debt": token_json(candidate.debt),
        "collateral": token_json(candidate.collateral),
        "repay": str(candidate.repay),
        "seized": str(candidate.seized),
        "funding": candidate.funding,
        "gain": str(candidate.gain),
        "gas": str(candidate.gas),
        "net": str(candidate.net),
        "note": candidate.note,
    }


def simulation_json(simulation: Simulation) -> dict[str, Any]:
    """ok, gain, gas_used, revert, block."""
    return {
        "ok": simulation.ok,
        "gain": str(simulation.gain),
        "gas_used": str(simulation.gas_used),
        "revert": simulation.revert,
        "block": head_json(simulation.head),
    }


def plan_json(plan: Plan) -> dict[str, Any]:
    """All that the plan decided and predicts."""
    loan = plan.loan
    return {
        "market": plan.market,
        "borrower": checksum(plan.borrower),
        "debt": token_json(plan.debt),
        "collateral": token_json(plan.collateral),
        "repay": str(plan.repay),
        "budget": str(plan.budget),
        "repaid": str(plan.seizure.repaid),
        "seized": str(plan.seizure.seized),
        "protocol_fee": str(plan.seizure.protocol_fee),
        "loan": None
        if loan is None
        else {
            "source": loan.source,
            "lender": checksum(loan.lender),
            "token": checksum(loan.token),
            "amount": str(loan.amount),
            "premium": str(loan.premium),
        },
        "buy": None if plan.buy is None else route_json(plan.buy),
        "sell": None if plan.sell is None else route_json(plan.sell),
        "profit_token": checksum(plan.profit_token),
        "gain": str(plan.gain),
        "gas": str(plan.gas),
        "gas_price": str(plan.fees.price),
        "cost": str(plan.cost),
        "net": str(plan.net),
        "sanity_bound": str(plan.sanity_bound),
        "health_factor": health_json(plan.health_factor),
        "timestamp": plan.timestamp,
    }


def route_json(route: Route) -> dict[str, Any]:
    """token_in, token_out, amount_in, amount_out, exact_out, paths (lists of hops)."""
    return {
        "token_in": checksum(route.token_in),
        "token_out": checksum(route.token_out),
        "amount_in": str(route.amount_in),
        "amount_out": str(route.amount_out),
        "exact_out": route.exact_out,
        "paths": [[_hop_json(hop) for hop in path.hops] for path in route.paths],
    }


def _hop_json(hop: Hop) -> dict[str, Any]:
    return {
        "venue": hop.venue,
        "pool": checksum(hop.pool),
        "token_in": checksum(hop.token_in),
        "token_out": checksum(hop.token_out),
        "amount_in": str(hop.amount_in),
        "amount_out": str(hop.amount_out),
    }
