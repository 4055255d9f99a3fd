// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

interface IPair {
    function token0() external view returns (address);
    function token1() external view returns (address);
    function mint(address to) external returns (uint256);
    function burn(address to) external returns (uint256, uint256);
    function transfer(address to, uint256 value) external returns (bool);
    function swap(uint256 amount0Out, uint256 amount1Out, address to, bytes calldata data) external;
}

interface IPoolV3 {
    function token0() external view returns (address);
    function token1() external view returns (address);
    function mint(address to, int24 lower, int24 upper, uint128 amount, bytes calldata data)
        external returns (uint256, uint256);
    function burn(int24 lower, int24 upper, uint128 amount) external returns (uint256, uint256);
    function collect(address to, int24 lower, int24 upper, uint128 amount0, uint128 amount1)
        external returns (uint128, uint128);
    function swap(address to, bool zeroForOne, int256 amount, uint160 limit, bytes calldata data)
        external returns (int256, int256);
}

/// The chain's market maker: it owns the inventory and all seeded liquidity, and anybody may tell it what to do.
contract Desk {
    receive() external payable {}

    function v3Mint(address pool, int24 lower, int24 upper, uint128 liquidity) external {
        IPoolV3(pool).mint(address(this), lower, upper, liquidity, "");
    }

    function v3Burn(address pool, int24 lower, int24 upper, uint128 liquidity) external {
        IPoolV3(pool).burn(lower, upper, liquidity);
        IPoolV3(pool).collect(address(this), lower, upper, type(uint128).max, type(uint128).max);
    }

    /// Positive amounts are exact input, negative ones exact output, as in the pool itself.
    function v3Swap(address pool, bool zeroForOne, int256 amount, uint160 limit) external returns (int256, int256) {
        return IPoolV3(pool).swap(address(this), zeroForOne, amount, limit, "");
    }

    function v2Mint(address pair, uint256 amount0, uint256 amount1) external {
        _pay(IPair(pair).token0(), pair, amount0);
        _pay(IPair(pair).token1(), pair, amount1);
        IPair(pair).mint(address(this));
    }

    function v2Burn(address pair, uint256 shares) external {
        IPair(pair).transfer(pair, shares);
        IPair(pair).burn(address(this));
    }

    /// The caller works out the output; the pair checks it.
    function v2Swap(address pair, bool zeroForOne, uint256 input, uint256 output) external {
        _pay(zeroForOne ? IPair(pair).token0() : IPair(pair).token1(), pair, input);
        IPair(pair).swap(zeroForOne ? 0 : output, zeroForOne ? output : 0, address(this), "");
    }

    function send(address token, address to, uint256 amount) external {
        _pay(token, to, amount);
    }

    function uniswapV3MintCallback(uint256 owed0, uint256 owed1, bytes calldata) external {
        _pay(IPoolV3(msg.sender).token0(), msg.sender, owed0);
        _pay(IPoolV3(msg.sender).token1(), msg.sender, owed1);
    }

    function uniswapV3SwapCallback(int256 delta0, int256 delta1, bytes calldata) external {
        if (delta0 > 0) _pay(IPoolV3(msg.sender).token0(), msg.sender, uint256(delta0));
        if (delta1 > 0) _pay(IPoolV3(msg.sender).token1(), msg.sender, uint256(delta1));
    }

    function _pay(address token, address to, uint256 amount) private {
        if (amount == 0) return;
        (bool done, bytes memory answer) = token.call(abi.encodeWithSignature("transfer(address,uint256)", to, amount));
        require(done && (answer.length == 0 || abi.decode(answer, (bool))), "Desk: transfer");
    }
}
