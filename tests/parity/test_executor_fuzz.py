"""Random programs and random callback data against the executor, on a private chain."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from eth_abi.abi import decode as abi_decode

from keeper.devchain.anvil import Anvil
from keeper.devchain.calls import calldata
from keeper.execution.executor import EXECUTOR
from keeper.execution.reverts import decode_revert
from keeper.model import Address, address
from keeper.program import (
    Amount,
    Approve,
    Call,
    Callback,
    Guard,
    Item,
    Keep,
    Patch,
    Program,
    Source,
    Step,
    Transfer,
    encode,
    kept,
    literal,
    word,
)
from tests.support.bench import BENEFICIARY, ETH, OPERATOR, STRANGER, Bench, Reverted, make_bench

pytestmark = pytest.mark.parity

SEED = int(os.environ.get("KEEPER_SEED", "20260131"))


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """One bench for all cases: they are eth_calls and leave nothing behind."""
    with Anvil(impersonate=True) as anvil:
        made = make_bench(anvil.rpc)
        made.tell(made["second"], "setManner(uint8)", 7)  # insists on zero-first approvals
        made.tell(made.weth, "deposit()", value=3 * ETH)
        made.tell(made.weth, "transfer(address,uint256)", made.executor, 3 * ETH)
        for lender in ("lender", "other"):
            made.tell(made[lender], "keep(bytes)", encode((Transfer(made.weth, STRANGER, literal(1)),)))
        yield made


@dataclass
class Maker:
    """Makes random programs that are mostly well-formed, so that they get far before something goes wrong."""

    bench: Bench
    rng: random.Random

    @property
    def tokens(self) -> tuple[Address, ...]:
        return (self.bench.weth, self.bench["token"], self.bench["second"])

    @property
    def addresses(self) -> tuple[Address, ...]:
        return (*self.bench.contracts.values(), self.bench.weth, STRANGER, BENEFICIARY)

    def amount(self) -> Amount:
        small = self.rng.choice((0, 1, 1000, self.rng.randrange(ETH)))
        kind = self.rng.random()
        if kind < 0.5:
            return literal(self.rng.choice((small, small, 2**256 - 1, self.rng.getrandbits(256))))
        if kind < 0.75:
            return Amount(Source.BALANCE, self.rng.choice((0, 0, small)), self.rng.choice(self.tokens))
        if kind < 0.8:
            return kept(self.key(), self.rng.choice((0, 1, 2, 2, 200)))
        if kind < 0.95:
            return word(self.rng.choice((0, 0, 1, 1, 2, 9)), small)
        return Amount(self.rng.choice((Source.V2_IN, Source.V2_OUT)), small, self.rng.choice(self.addresses))

    def key(self) -> bytes:
        """A key, often one that equals a transient slot the executor uses."""
        return self.rng.choice((0, 1, 1 << 16, (1 << 16) + 1, 2 << 16, 1 << 128, (1 << 128) + 1)).to_bytes(32, "big")

    def steps(self, depth: int) -> tuple[Step, ...]:
        """A few steps; answers are kept now and then, and coin makes a round trip."""
        found: list[Step] = []
        for _ in range(self.rng.randrange(1, 4)):
            found.append(self.step(depth))
            kind = self.rng.random()
            if kind < 0.15:
                token, who = self.rng.choice(self.tokens), self.rng.choice(self.addresses)
                found += [Call(token, calldata("balanceOf(address)", who)), Keep(self.key(), int(kind < 0.01))]
            elif kind < 0.25:
                amount = self.rng.randrange(1_000)
                coin = literal(amount + int(kind < 0.16))
                found.append(Call(self.bench.weth, calldata("withdraw(uint256)", amount)))
                found.append(Call(self.bench.weth, calldata("deposit()"), value=coin))
        return tuple(found)

    def step(self, depth: int) -> Step:
        kind = self.rng.random()
        token = self.rng.choice(self.tokens)
        if kind < 0.2:
            return Approve(token, self.rng.choice(self.addresses), self.amount())
        if kind < 0.35:
            return Transfer(token, self.rng.choice(self.addresses), self.amount())
        if kind < 0.5:
            return self.bench.bring(token, self.rng.randrange(1, ETH))
        if kind < 0.6 and depth:
            return self.item(depth)
        if kind < 0.8 and depth:
            return self.loan(depth)
        return self.odd_call(depth)

    def item(self, depth: int) -> Item:
        """An item whose guard mostly holds, and whose program mostly brings what it must."""
        odd = (*self.tokens, self.bench.executor, STRANGER)
        token = self.rng.choice(odd if self.rng.random() < 0.1 else self.tokens)
        target = self.rng.choice(self.addresses) if self.rng.random() < 0.1 else self.bench.weth
        minimum = self.rng.choice((0, 0, 0, 1, 2**255))
        data = self.rng.choice((calldata("balanceOf(address)", self.bench.executor), calldata("totalSupply()"), b""))
        guard = Guard(target, data, minimum, 2**256 - 1, self.rng.choice((0, 0, 0, 1, 255)))
        return Item(guard, token, self.rng.choice((0, 0, 0, 1, ETH)), self.steps(depth - 1))

    def loan(self, depth: int) -> Call:
        lender = self.rng.choice(("lender", "other"))
        token, amount, fee = self.rng.choice(self.tokens), self.rng.randrange(1, ETH), self.rng.choice((0, 0, 7))
        inner = [*self.steps(depth - 1)] if self.rng.random() < 0.6 else []
        inner.append(self.bench.bring(token, fee + 1))
        if self.rng.random() < 0.85:
            inner.append(
                Transfer(token, self.bench[lender], word(1) if self.rng.random() < 0.5 else literal(amount + fee))
            )
        returns = self.rng.randbytes(self.rng.choice((0, 0, 1, 32, 70)))
        call = self.bench.lend(lender, token, amount, inner, fee, returns)
        if self.rng.random() < 0.1:
            sender = self.rng.choice(self.addresses)
            return Call(call.target, call.data, callback=Callback(sender, self.rng.choice((0, 1, 2, 3, 255)), returns))
        if self.rng.random() < 0.1:
            silent = calldata("keep(bytes)", encode(tuple(inner)))
            return Call(call.target, silent, callback=Callback(call.target, 0))
        return call

    def odd_call(self, depth: int) -> Call:
        # The giver is left as it is, because the sound execution afterwards relies on it.
        target = self.rng.choice((*self.addresses, self.bench.executor))
        target = self.bench["other"] if target == self.bench["giver"] else target
        data = self.rng.choice(
            (
                self.rng.randbytes(self.rng.randrange(0, 70)),
                calldata("again(address)", self.bench.executor),
                calldata("setMode(uint8)", self.rng.randrange(17)),
                calldata("setManner(uint8)", self.rng.randrange(10)),
                calldata("setPayload(address,bytes)", self.bench.executor, self.stray()),
                calldata("balanceOf(address)", self.bench.executor),
                calldata("withdraw(uint256)", 0),
                calldata("transferFrom(address,address,uint256)", STRANGER, self.bench.executor, 1),
                calldata("all(address,bytes[])", self.bench.executor, [self.stray() for _ in range(depth)]),
            )
        )
        patches: tuple[Patch, ...] = ()
        if len(data) >= 36 and self.rng.random() < 0.3:
            patches = (Patch(self.rng.randrange(len(data) - 31), self.amount(), self.rng.random() < 0.3),)
        return Call(target, data, patches)

    def stray(self) -> bytes:
        """Something that looks like a callback, or like nothing."""
        inner = encode((Transfer(self.bench.weth, STRANGER, literal(1)),))
        return self.rng.choice(
            (
                b"",
                self.rng.randbytes(3),
                self.rng.randbytes(self.rng.randrange(4, 200)),
                calldata("onLoan(uint256,int256,bytes)", 1, 1, inner),
                calldata("uniswapV2Call(address,uint256,uint256,bytes)", self.bench.executor, 1, 1, inner),
                calldata("executeOperation(address,uint256,uint256,address,bytes)", STRANGER, 1, 1, STRANGER, inner),
                EXECUTOR.encode("unpause"),
                EXECUTOR.encode("rescue", self.bench.weth, 1, STRANGER),
            )
        )

    def execution(self) -> bytes:
        """Calldata of a random execution; now and then the program's bytes are damaged."""
        guards: tuple[Guard, ...] = ()
        if self.rng.random() < 0.05:
            guards = (Guard(self.rng.choice(self.addresses), self.rng.randbytes(36), 0, 2**255),)
        program = Program(guards, self.steps(3), self.bench.weth, self.tokens[1:])
        encoded = encode(program.steps)
        if self.rng.random() < 0.15:
            damaged = bytearray(encoded)
            for _ in range(self.rng.randrange(1, 4)):
                damaged[self.rng.randrange(len(damaged))] = self.rng.randrange(256)
            encoded = bytes(damaged[: self.rng.randrange(1, len(damaged) + 1)] if self.rng.random() < 0.3 else damaged)
        fields = (
            bytes(32),
            self.bench.weth,
            0,
            self.rng.choice((0, 0, 5_000)),
            self.bench.weth,
            2**40,
            self.tokens[1:],
        )
        listed = [(guard.target, guard.index, guard.minimum, guard.maximum, guard.data) for guard in program.guards]
        return EXECUTOR.encode("execute", fields, listed, encoded)


def _judge(bench: Bench, maker: Maker) -> tuple[bool, str]:
    spenders = list(maker.addresses)
    strays = [stray for stray in (maker.stray() for _ in range(3)) if stray] or [b"\x00\x00\x00\x01"]
    sound = bench.encode(
        (bench.earn(1), bench.lend("giver", bench.weth, 5, (Transfer(bench.weth, bench["giver"], word(0)),)))
    )
    data = calldata(
        "judge(address,bytes,address[],address[],bytes[],bytes)",
        bench.executor,
        maker.execution(),
        list(maker.tokens),
        spenders,
        strays,
        sound,
    )
    ok, reason = abi_decode(["bool", "bytes"], bench.call(OPERATOR, bench["referee"], data))
    return bool(ok), "" if ok else decode_revert(reason)


def _fuzz(bench: Bench, seed: int, cases: int) -> None:
    print(f"KEEPER_SEED={seed}, {cases} programs")
    succeeded, reasons = 0, set()
    for number in range(cases):
        maker = Maker(bench, random.Random(f"{seed}/{number}"))
        ok, reason = _judge(bench, maker)
        succeeded += ok
        reasons.add(reason.split("(")[0].rsplit(": ", 1)[-1])
    # A fuzzer whose programs all fail at once, or all in one way, would prove nothing.
    assert succeeded > cases // 20, (succeeded, cases)
    assert {"UnexpectedCallback", "AlteredProgram", "CallbackMissing", "NoSuchWord", "NoCode", "SelfCall"} <= reasons


def test_random_programs_leave_nothing_behind(bench: Bench) -> None:
    """Whatever a program does, afterwards there are no tokens, coin or approvals, the executor's own profit tokens are
    untouched, stray callbacks are refused and a sound execution works, all within the same transaction."""
    _fuzz(bench, SEED, 1_500)


@pytest.mark.long
def test_random_programs_leave_nothing_behind_at_length(bench: Bench) -> None:
    """The same over many more programs."""
    _fuzz(bench, SEED + 1, 20_000)


def test_random_data_never_passes_for_a_callback(bench: Bench) -> None:
    """While a callback is expected, its own sender tries hundreds of payloads, many near misses; none is taken."""
    rng = random.Random(SEED)
    inner = (Transfer(bench.weth, bench["lender"], literal(ETH)),)
    program = encode(inner)
    good = calldata("onLoan(uint256,int256,bytes)", ETH, -ETH, program)
    payloads = [b"\x00", good[:-64], good[:4], EXECUTOR.encode("pause"), bench.encode(())]
    for _ in range(300):
        kind = rng.random()
        if kind < 0.4:
            # Anything that changes the program, or the two words that lead to it.
            damaged = bytearray(good)
            at = rng.choice((*range(4 + 64, 4 + 128), *range(4 + 128, 4 + 128 + len(program))))
            damaged[at] ^= 1 << rng.randrange(8)
            payloads.append(bytes(damaged))
        elif kind < 0.7:
            payloads.append(rng.randbytes(rng.randrange(1, 400)))
        else:
            payloads.append(
                rng.randbytes(4) + calldata("f(uint256,uint256,bytes)", 1, 1, rng.randbytes(len(program)))[4:]
            )
    snapshot = bench.rpc.request("evm_snapshot")
    bench.tell(bench["lender"], "setMode(uint8)", 15)
    step = bench.lend("lender", bench.weth, ETH, inner)
    for start in range(0, len(payloads), 50):
        bench.tell(bench["lender"], "setPayloads(bytes[])", payloads[start : start + 50])
        assert bench.dry(step) == 0
    # The harness notices an accepted payload: the right one, given as a stray, is taken.
    bench.tell(bench["lender"], "setPayloads(bytes[])", [good])
    with pytest.raises(Reverted, match="a stray payload was accepted"):
        bench.dry(step)
    assert bench.rpc.request("evm_revert", snapshot)


@pytest.mark.parametrize("who", ["stranger", "lender", "token", "referee"])
def test_random_bytes_outside_an_execution(bench: Bench, who: str) -> None:
    """Random calldata from anybody reverts when nothing runs."""
    rng = random.Random(SEED)
    sender = STRANGER if who == "stranger" else bench[who]
    selectors = [function.selector for function in EXECUTOR.functions.values() if not function.outputs]
    views = {
        EXECUTOR.functions[name].selector for name in ("owner", "paused", "pendingOwner", "beneficiary", "operators")
    }
    calls = []
    for _ in range(150):
        data = rng.choice((rng.randbytes(rng.randrange(1, 300)), rng.choice(selectors) + rng.randbytes(96)))
        if data[:4] not in views and not (who == "referee" and data[:4] == EXECUTOR.functions["pause"].selector):
            calls.append(("eth_call", [{"from": sender, "to": bench.executor, "data": "0x" + data.hex()}, "latest"]))
    answers = bench.rpc.batch(calls, errors=True)
    assert [answer for answer in answers if isinstance(answer, str)] == []
    assert address(bench.rpc.view(bench.executor, "owner()", returns="address"))
