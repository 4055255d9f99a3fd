"""Revert data in words: the executor's errors, Solidity's own, and those of what a liquidation touches."""

from __future__ import annotations

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError
from eth_utils.crypto import keccak

_STRING = bytes.fromhex("08c379a0")  # Error(string)
_PANIC = bytes.fromhex("4e487b71")  # Panic(uint256)
_NESTING = 32

# Solidity's panic codes, from the language's documentation ("Panic via assert and Error via require").
_PANICS = {
    0x01: "assertion failed",
    0x11: "arithmetic overflow",
    0x12: "division by zero",
    0x21: "bad enum value",
    0x32: "index out of bounds",
    0x41: "out of memory",
    0x51: "call of an uninitialised function",
}

# Aave V3 answered with a number as text until 3.3 and with an error of the same name from 3.4 on
# (protocol/libraries/helpers/Errors.sol of both): one name for both, so that a reason means the same everywhere.
_AAVE = {
    "13": "InvalidFlashloanExecutorReturn",
    "23": "CallerMustBePool",
    "26": "InvalidAmount",
    "27": "ReserveInactive",
    "28": "ReserveFrozen",
    "29": "ReservePaused",
    "32": "NotEnoughAvailableUserBalance",
    "35": "HealthFactorLowerThanLiquidationThreshold",
    "39": "NoDebtOfSelectedType",
    "43": "UnderlyingBalanceZero",
    "45": "HealthFactorNotBelowThreshold",
    "46": "CollateralCannotBeLiquidated",
    "47": "SpecifiedCurrencyNotBorrowedByUser",
    "49": "InconsistentFlashloanParams",
    "51": "SupplyCapExceeded",
    "59": "PriceOracleSentinelCheckFailed",
    "77": "ZeroAddressNotValid",
    "80": "OperationNotSupported",
    "82": "AssetNotListed",
    "91": "FlashloanDisabled",
    "97": "LiquidationGraceSentinelCheckFailed",
    "103": "MustNotLeaveDust",
}
_AAVE_LATER = ("SelfLiquidation", "CallerNotPositionManager", "InvalidMintAmount", "InvalidBurnAmount")

_SIGNATURES = (
    # Executor.sol
    "NotOwner()",
    "NotPendingOwner()",
    "NotOperator()",
    "ZeroAddress()",
    "ExecutionPaused()",
    "Reentered()",
    "Expired()",
    "Gone()",
    "GainTooLow(uint256,uint256)",
    "BadSettlement()",
    "CoinbaseRefused()",
    "ApprovalStands(address,address)",
    "RescueFailed()",
    "OutsideExecution()",
    "UnexpectedCallback(address)",
    "AlteredProgram()",
    "BadProgram()",
    "SelfCall()",
    "NoCode(address)",
    "CallbackMissing(address)",
    "BalanceTooLow(address,uint256,uint256)",
    "NoSuchWord(uint256)",
    # OpenZeppelin 5 (interfaces/draft-IERC6093.sol, token/ERC20/utils/SafeERC20.sol)
    "ERC20InsufficientBalance(address,uint256,uint256)",
    "ERC20InsufficientAllowance(address,uint256,uint256)",
    "SafeERC20FailedOperation(address)",
    *(f"{name}()" for name in (*_AAVE.values(), *_AAVE_LATER)),
)


def _selector(signature: str) -> bytes:
    return keccak(text=signature)[:4]


_STEP_FAILED = _selector("StepFailed(uint256,bytes)")
_TOKEN_REFUSED = _selector("TokenRefused(address,bytes)")
_KNOWN = {
    _selector(s): (s.partition("(")[0], [t for t in s.partition("(")[2][:-1].split(",") if t]) for s in _SIGNATURES
}


def decode_revert(data: bytes) -> str:
    """What a call reverted with, for a person and for rules that look for an error's name.

    Failing steps are named from the outermost program inwards: ``step 0: step 2: MustNotLeaveDust()``. Never raises:
    what cannot be decoded is described by its selector and length.
    """
    return _words(data, _NESTING)


def _words(data: bytes, depth: int) -> str:
    if not data:
        return "reverted without a reason"
    selector, rest = data[:4], data[4:]
    try:
        if selector == _STRING:
            (text,) = decode(["string"], rest)
            return f"{_AAVE[text]}() [Aave {text}]" if text in _AAVE else f"'{_printable(text)}'"
        if selector == _PANIC:
            (code,) = decode(["uint256"], rest)
            return f"panic 0x{code:02x} ({_PANICS.get(code, 'unknown')})"
        if selector == _STEP_FAILED and depth:
            index, reason = decode(["uint256", "bytes"], rest)
            return f"step {index}: {_words(reason, depth - 1)}"
        if selector == _TOKEN_REFUSED and depth:
            token, answer = decode(["address", "bytes"], rest)
            said = "answered false" if answer == bytes(32) else _words(answer, depth - 1)
            return f"TokenRefused({token}): {said}"
        if selector in _KNOWN:
            name, types = _KNOWN[selector]
            return f"{name}({', '.join(str(value) for value in decode(types, rest))})"
    except (DecodingError, OverflowError, ValueError):
        pass  # a known selector over garbage is as unknown as any other
    return f"unknown error 0x{selector.hex()} ({len(data)} bytes)"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:200])
