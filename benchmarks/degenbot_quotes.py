"""Run by the environment that has degenbot: times its quotes for the amounts on standard input, and checks them."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import degenbot
import web3


def main() -> None:
    """µs per quote by case, as JSON. Its swap steps are memoised: every amount is asked for the first time once."""
    task: dict[str, Any] = json.load(sys.stdin)
    degenbot.set_web3(web3.Web3(web3.HTTPProvider(task["url"])))
    pool = degenbot.UniswapV3Pool(web3.Web3.to_checksum_address(task["pool"]), verify_address=False, silent=True)
    found: dict[str, float] = {}
    for case, amounts in task["cases"].items():
        numbers = [int(amount) for amount in amounts]
        exact_out = case.endswith("1")

        def ask(amount: int, *, exact_out: bool = exact_out) -> int:
            if exact_out:
                return int(pool.calculate_tokens_in_from_tokens_out(pool.token1, amount))
            return int(pool.calculate_tokens_out_from_tokens_in(pool.token0, amount))

        ask(numbers[0])  # fetches the ticks it needs
        taken: list[float] = []
        for amount, expected in zip(numbers[1:], task["expected"][case][1:], strict=True):
            begun = time.perf_counter()
            answer = ask(amount)
            taken.append(time.perf_counter() - begun)
            if answer != int(expected):
                raise SystemExit(f"degenbot answers {answer} where the pool gives {expected}")
        found[case] = sorted(taken)[len(taken) // 2] * 1e6
    print(json.dumps(found))


if __name__ == "__main__":
    main()
