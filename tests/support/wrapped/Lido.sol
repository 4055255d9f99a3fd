// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

/// A model of stETH: balances are shares of all pooled ether, and transfers move whole shares, rounded down.
/// Modelled: share rate, transfer, transferFrom, approve, rebase. Not modelled: staking limits, withdrawals, pauses.
contract StEth {
    string public constant symbol = "stETH";
    uint8 public constant decimals = 18;
    uint256 public getTotalPooledEther;
    uint256 public getTotalShares;
    mapping(address => uint256) public sharesOf;
    mapping(address => mapping(address => uint256)) public allowance;

    function submit(address to) external payable {
        uint256 shares = getTotalShares == 0 ? msg.value : getSharesByPooledEth(msg.value);
        sharesOf[to] += shares;
        getTotalShares += shares;
        getTotalPooledEther += msg.value;
    }

    function rebase(uint256 pooled) external {
        getTotalPooledEther = pooled;
    }

    function getSharesByPooledEth(uint256 amount) public view returns (uint256) {
        return amount * getTotalShares / getTotalPooledEther;
    }

    function getPooledEthByShares(uint256 shares) public view returns (uint256) {
        return shares * getTotalPooledEther / getTotalShares;
    }

    function balanceOf(address who) external view returns (uint256) {
        return getPooledEthByShares(sharesOf[who]);
    }

    function approve(address spender, uint256 amount) external returns (bool) {
        allowance[msg.sender][spender] = amount;
        return true;
    }

    function transfer(address to, uint256 amount) external returns (bool) {
        return _move(msg.sender, to, amount);
    }

    function transferFrom(address from, address to, uint256 amount) external returns (bool) {
        allowance[from][msg.sender] -= amount;
        return _move(from, to, amount);
    }

    function _move(address from, address to, uint256 amount) private returns (bool) {
        uint256 shares = getSharesByPooledEth(amount);
        sharesOf[from] -= shares;
        sharesOf[to] += shares;
        return true;
    }
}

/// A model of wstETH over it: wraps and unwraps at the share rate.
contract WstEth {
    string public constant symbol = "wstETH";
    uint8 public constant decimals = 18;
    StEth public immutable stETH;
    uint256 public totalSupply;
    mapping(address => uint256) public balanceOf;
    mapping(address => mapping(address => uint256)) public allowance;

    constructor(address steth) {
        stETH = StEth(steth);
    }

    function wrap(uint256 amount) external returns (uint256 wrapped) {
        wrapped = stETH.getSharesByPooledEth(amount);
        balanceOf[msg.sender] += wrapped;
        totalSupply += wrapped;
        stETH.transferFrom(msg.sender, address(this), amount);
    }

    function unwrap(uint256 amount) external returns (uint256 unwrapped) {
        unwrapped = stETH.getPooledEthByShares(amount);
        balanceOf[msg.sender] -= amount;
        totalSupply -= amount;
        stETH.transfer(msg.sender, unwrapped);
    }

    function getStETHByWstETH(uint256 amount) external view returns (uint256) {
        return stETH.getPooledEthByShares(amount);
    }

    function getWstETHByStETH(uint256 amount) external view returns (uint256) {
        return stETH.getSharesByPooledEth(amount);
    }

    function approve(address spender, uint256 amount) external returns (bool) {
        allowance[msg.sender][spender] = amount;
        return true;
    }

    function transfer(address to, uint256 amount) external returns (bool) {
        balanceOf[msg.sender] -= amount;
        balanceOf[to] += amount;
        return true;
    }

    function transferFrom(address from, address to, uint256 amount) external returns (bool) {
        allowance[from][msg.sender] -= amount;
        balanceOf[from] -= amount;
        balanceOf[to] += amount;
        return true;
    }
}
