// SPDX-License-Identifier: MIT
pragma solidity 0.8.27;

struct Key {
    address currency0;
    address currency1;
    uint24 fee;
    int24 tickSpacing;
    address hooks;
}

struct Trade {
    bool zeroForOne;
    int256 amountSpecified;
    uint160 sqrtPriceLimitX96;
}

interface IManager {
    function unlock(bytes calldata data) external returns (bytes memory);
    function swap(Key calldata key, Trade calldata trade, bytes calldata hookData) external returns (int256);
    function extsload(bytes32 slot) external view returns (bytes32);
}

/// Trades with a V4 manager and takes everything back, so that one call can ask for many trades on one state.
contract V4Prober {
    struct Ask {
        Key key;
        bool zeroForOne;
        int256 amount;
        uint160 limit;
    }

    function v4(address manager, Ask[] calldata asks) external returns (bytes[] memory) {
        bytes memory answer = IManager(manager).unlock(abi.encode(asks));
        return abi.decode(answer, (bytes[]));
    }

    function unlockCallback(bytes calldata data) external returns (bytes memory) {
        Ask[] memory asks = abi.decode(data, (Ask[]));
        bytes[] memory answers = new bytes[](asks.length);
        for (uint256 i = 0; i < asks.length; i++) {
            try this.trade(IManager(msg.sender), asks[i]) {}
            catch (bytes memory reason) {
                answers[i] = reason;
            }
        }
        return abi.encode(answers);
    }

    function trade(IManager manager, Ask calldata ask) external {
        int256 delta = manager.swap(ask.key, Trade(ask.zeroForOne, ask.amount, ask.limit), "");
        uint256 pool = uint256(keccak256(abi.encode(keccak256(abi.encode(ask.key)), uint256(6))));
        uint256 slot0 = uint256(manager.extsload(bytes32(pool)));
        uint256 liquidity = uint256(manager.extsload(bytes32(pool + 3)));
        bytes memory answer = abi.encode(
            int128(delta >> 128), int128(delta), uint160(slot0), int24(uint24(slot0 >> 160)), uint128(liquidity)
        );
        assembly {
            revert(add(answer, 32), mload(answer))
        }
    }
}
