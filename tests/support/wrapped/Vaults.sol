// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {ERC4626} from "@openzeppelin/contracts/token/ERC20/extensions/ERC4626.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

/// OpenZeppelin's vault with an offset, some of whose assets may be out working, and a limit on what it takes.
contract OffsetVault is ERC4626 {
    uint8 private immutable offset;
    uint256 public working;
    uint256 public room = type(uint256).max;

    constructor(address asset_, uint8 offset_) ERC20("V", "V") ERC4626(IERC20(asset_)) {
        offset = offset_;
    }

    function _decimalsOffset() internal view override returns (uint8) {
        return offset;
    }

    function totalAssets() public view override returns (uint256) {
        return super.totalAssets() + working;
    }

    function maxWithdraw(address owner) public view override returns (uint256) {
        return Math.min(super.maxWithdraw(owner), IERC20(asset()).balanceOf(address(this)));
    }

    function maxRedeem(address owner) public view override returns (uint256) {
        uint256 most = _convertToShares(IERC20(asset()).balanceOf(address(this)), Math.Rounding.Floor);
        return Math.min(super.maxRedeem(owner), most);
    }

    function maxDeposit(address) public view override returns (uint256) {
        return room;
    }

    function maxMint(address) public view override returns (uint256) {
        return room == type(uint256).max ? room : _convertToShares(room, Math.Rounding.Floor);
    }

    /// Sends assets out to work, where they grow by `gain`.
    function work(uint256 amount, uint256 gain) external {
        IERC20(asset()).transfer(address(0xdead), amount);
        working += amount + gain;
    }

    function setRoom(uint256 most) external {
        room = most;
    }
}

/// A vault that keeps a tenth of a per cent of every redemption, which its previews admit.
contract TollVault is ERC4626 {
    constructor(address asset_) ERC20("T", "T") ERC4626(IERC20(asset_)) {}

    function previewRedeem(uint256 shares) public view override returns (uint256) {
        uint256 assets = super.previewRedeem(shares);
        return assets - assets / 1000;
    }
}
