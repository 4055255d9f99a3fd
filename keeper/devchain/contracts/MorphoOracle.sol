// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

interface IFeed {
    function latestAnswer() external view returns (int256);
}

/// What a Morpho market asks for its price: collateral in loan token, 36 decimals more than the difference of theirs.
/// It follows two feeds, so that one fall moves every protocol on the chain together, until its owner fixes a price of
/// its own (a frozen oracle), or makes it fail (zero).
contract MorphoOracle {
    IFeed public immutable collateralFeed;
    IFeed public immutable loanFeed;
    uint256 public immutable scale;
    address public immutable owner;
    bool public fixedPrice;
    uint256 private _price;

    constructor(address collateralFeed_, address loanFeed_, uint8 collateralDecimals, uint8 loanDecimals, address owner_) {
        collateralFeed = IFeed(collateralFeed_);
        loanFeed = IFeed(loanFeed_);
        scale = 10 ** (36 + uint256(loanDecimals) - collateralDecimals);
        owner = owner_;
    }

    function fix(uint256 price_) external {
        require(msg.sender == owner, "not the owner");
        fixedPrice = true;
        _price = price_;
    }

    function follow() external {
        require(msg.sender == owner, "not the owner");
        fixedPrice = false;
    }

    function price() external view returns (uint256) {
        if (fixedPrice) {
            require(_price != 0, "no price");
            return _price;
        }
        int256 collateral = collateralFeed.latestAnswer();
        int256 loan = loanFeed.latestAnswer();
        require(collateral > 0 && loan > 0, "no price");
        return uint256(collateral) * scale / uint256(loan);
    }
}
