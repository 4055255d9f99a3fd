"""A chain with an executor, honest and hostile counterparties on it, and short ways to run programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from eth_abi.abi import decode as abi_decode

from keeper.devchain.artifacts import aave_302
from keeper.devchain.calls import calldata
from keeper.devchain.deploy import Deployer, created_address
from keeper.devchain.rpc import Rpc, RpcError
from keeper.execution.executor import Executed, Settlement, creation_code, encode_execute, gain_from_receipt
from keeper.execution.reverts import decode_revert
from keeper.model import ZERO_ADDRESS, Address, address
from keeper.program import Call, Callback, Guard, Program, Step, encode
from tests.support.solidity import compiled_contracts

OWNER = address("0x" + "0a" * 20)
OPERATOR = address("0x" + "0b" * 20)
BENEFICIARY = address("0x" + "0c" * 20)
STRANGER = address("0x" + "0d" * 20)
BUILDER = address("0x" + "0e" * 20)
FAR = 2**40
ETH = 10**18
LOAN_ID = bytes(range(32))


class Reverted(Exception):
    """An execution that did not go through; the text is the decoded reason."""


@dataclass
class Bench:
    """`executor` belongs to OWNER, is operated by OPERATOR and `referee`, and pays BENEFICIARY."""

    rpc: Rpc
    executor: Address
    weth: Address
    contracts: dict[str, Address] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Address:
        return self.contracts[name]

    # -- doing

    def send(self, sender: str, to: str | None, data: bytes, value: int = 0) -> dict[str, Any]:
        """Mine one transaction; raises Reverted with the reason."""
        transaction: dict[str, Any] = {
            "from": sender,
            "data": "0x" + data.hex(),
            "value": hex(value),
            "gas": hex(20_000_000),
        }
        if to is not None:
            transaction["to"] = to
        sent = self.rpc.request("eth_sendTransaction", transaction)
        self.rpc.request("evm_mine")
        receipt: dict[str, Any] = self.rpc.request("eth_getTransactionReceipt", sent)
        if receipt["status"] != "0x1":
            # The state after the failed transaction equals the one before it, but for the sender's nonce and coin.
            self.call(sender, to or ZERO_ADDRESS, data, value)
            raise AssertionError("a transaction failed whose call succeeds")
        return receipt

    def call(self, sender: str, to: str, data: bytes, value: int = 0) -> bytes:
        """eth_call; raises Reverted with the reason."""
        transaction = {"from": sender, "to": to, "data": "0x" + data.hex(), "value": hex(value), "gas": hex(25_000_000)}
        try:
            return bytes.fromhex(self.rpc.request("eth_call", transaction, "latest")[2:])
        except RpcError as error:
            if not isinstance(error.data, str):
                raise
            raise Reverted(decode_revert(bytes.fromhex(error.data[2:]))) from error

    def tell(self, to: str, signature: str, *args: Any, sender: str = OWNER, value: int = 0) -> dict[str, Any]:
        """Mine a call written as a signature."""
        return self.send(sender, to, calldata(signature, *args), value)

    def encode(self, steps: tuple[Step, ...], **options: Any) -> bytes:
        """Calldata of an execution; options are those of `program` and `settlement`."""
        guards: tuple[Guard, ...] = options.pop("guards", ())
        sweep: tuple[Address, ...] = options.pop("sweep", ())
        token: Address = options.pop("profit_token", self.weth)
        fields: dict[str, Any] = {"id": LOAN_ID, "min_gain": 0, "wrapped_native": self.weth, "deadline": FAR} | options
        return encode_execute(Program(guards, steps, token, sweep), Settlement(**fields))

    def run(self, *steps: Step, sender: str = OPERATOR, **options: Any) -> Executed:
        """Mine an execution and return what its receipt says."""
        receipt = self.send(sender, self.executor, self.encode(steps, **options))
        done = gain_from_receipt(receipt["logs"], self.executor)
        assert done is not None
        return done

    def dry(self, *steps: Step, sender: str = OPERATOR, **options: Any) -> int:
        """The gain an execution would return, without mining it."""
        answer = self.call(sender, self.executor, self.encode(steps, **options))
        return int(abi_decode(["uint256"], answer)[0])

    # -- looking

    def balance(self, token: str, who: str) -> int:
        return int(self.rpc.view(token, "balanceOf(address)", who))

    def allowance(self, token: str, spender: str) -> int:
        return int(self.rpc.view(token, "allowance(address,address)", self.executor, spender))

    # -- saying

    def bring(self, token: Address, amount: int) -> Call:
        """A step that brings a token from nowhere: the giver simply sends it."""
        data = calldata("transfer(address,uint256)", self.executor, amount)
        return Call(self["giver"], calldata("forward(address,bytes)", token, data))

    def earn(self, amount: int) -> Call:
        """A step that brings WETH from nowhere."""
        return self.bring(self.weth, amount)

    def lend(
        self, lender: str, token: Address, amount: int, inner: Sequence[Step], fee: int = 0, returns: bytes = b""
    ) -> Call:
        """A loan from one of the test lenders, with `inner` run in its callback (word 0 amount, 1 −owed, 2 program)."""
        data = calldata("lend(address,uint256,uint256,bytes)", token, amount, fee, encode(tuple(inner)))
        return Call(self[lender], data, callback=Callback(self[lender], 2, returns))


def deploy_executor(rpc: Rpc, owner: str = OWNER, operator: str = OPERATOR, beneficiary: str = BENEFICIARY) -> Address:
    """Deploy from OWNER's account and insist that it worked."""
    nonce = int(rpc.request("eth_getTransactionCount", OWNER, "latest"), 16)
    code = creation_code(address(owner), address(operator), address(beneficiary))
    sent = rpc.request("eth_sendTransaction", {"from": OWNER, "data": "0x" + code.hex(), "gas": hex(6_000_000)})
    rpc.request("evm_mine")
    assert rpc.request("eth_getTransactionReceipt", sent)["status"] == "0x1"
    return created_address(OWNER, nonce)


def fund(rpc: Rpc) -> None:
    """Give coin to everybody who sends."""
    for who in (OWNER, OPERATOR, BENEFICIARY, STRANGER):
        rpc.request("anvil_setBalance", who, hex(10**6 * ETH))


def make_bench(rpc: Rpc, weth: Address | None = None) -> Bench:
    """Executor, WETH (unless there is one), two lenders, tokens, market, referee and coinbase. Lenders are rich."""
    fund(rpc)
    executor = deploy_executor(rpc)
    on = Deployer(rpc, OWNER, 50_000_000)
    own = compiled_contracts()
    found = {
        "lender": on.deploy(own["Lender"]),
        "other": on.deploy(own["Lender"]),
        "giver": on.deploy(own["Lender"]),
        "token": on.deploy(own["MannerToken"]),
        "second": on.deploy(own["MannerToken"]),
        "market": on.deploy(own["ToyMarket"]),
        "referee": on.deploy(own["Referee"]),
        "coinbase": on.deploy(own["Coinbase"]),
    }
    if weth is None:
        weth = on.deploy(aave_302("dependencies/weth/WETH9"))
    on.send(weth, "deposit()", value=50_000 * ETH)
    for lender in (found["lender"], found["other"], found["giver"]):
        on.send(weth, "transfer(address,uint256)", lender, 10_000 * ETH)
        for token in (found["token"], found["second"]):
            on.send(token, "mint(address,uint256)", lender, 10_000 * ETH)
    for token in (found["token"], found["second"]):
        on.send(token, "mint(address,uint256)", found["market"], 10_000 * ETH)
    on.send(weth, "transfer(address,uint256)", found["market"], 10_000 * ETH)
    on.send(executor, "setOperator(address,bool)", found["referee"], True)
    on.send(found["lender"], "setAccomplice(address)", found["other"])
    on.flush()
    return Bench(rpc, executor, weth, found)
