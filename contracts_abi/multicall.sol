// SPDX-License-Identifier: MIT
pragma solidity 0.8.27;

/// Many views in one `eth_call` that needs nothing deployed: the constructor makes the calls and returns their answers
/// in place of code.
///
/// Input, packed:  per call  target (20 bytes) · length (3) · calldata
/// Output, packed: one zero byte (code may not begin with 0xEF), then per call  status (1) · length (3) · answer
/// Status: 0 reverted · 1 answered · 2 not answered here, ask again: too little gas or room was left for it.
contract Multicall {
    constructor(bytes memory calls, uint256 room) {
        assembly {
            let cursor := add(calls, 32)
            let end := add(cursor, mload(calls))
            let start := mload(0x40)
            let limit := add(start, room)
            let out := add(start, 1)
            // The memory beyond the free pointer is not guaranteed to be clean.
            mstore8(start, 0)
            // Half of the gas is the most one call may take, and an eighth of it is kept for packing the answers, so that
            // one hungry view cannot starve the rest.
            let floor := div(gas(), 8)
            for {} lt(cursor, end) {} {
                let target := shr(96, mload(cursor))
                let length := shr(232, mload(add(cursor, 20)))
                cursor := add(cursor, 23)
                let status := 2
                let size := 0
                if gt(gas(), floor) {
                    let allowance := div(gas(), 2)
                    let before := gas()
                    let ok := staticcall(allowance, target, cursor, length, 0, 0)
                    let spent := sub(before, gas())
                    size := returndatasize()
                    status := ok
                    // A failure that ate its whole allowance says nothing about the view.
                    if and(iszero(ok), gt(spent, sub(allowance, shr(5, allowance)))) { status := 2 }
                    if gt(add(add(out, 4), size), limit) { status := 2 }
                    if iszero(eq(status, 1)) { size := 0 }
                }
                cursor := add(cursor, length)
                // Four bytes of header; what the word store spills over is overwritten by what follows.
                mstore(out, or(shl(248, status), shl(224, size)))
                out := add(out, 4)
                returndatacopy(out, 0, size)
                out := add(out, size)
            }
            return(start, sub(out, start))
        }
    }
}
