// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

/// Prices data as the OP stack did at Ecotone: 4 gas per zero byte, 16 per other, 68 bytes more for a signature.
contract DataFeeOracle {
    uint256 public price = 1 gwei;

    function set(uint256 price_) external {
        price = price_;
    }

    function getL1Fee(bytes memory data) external view returns (uint256) {
        uint256 gas_ = 68 * 16;
        for (uint256 i = 0; i < data.length; i++) gas_ += data[i] == 0 ? 4 : 16;
        return (gas_ * price) / 3;
    }
}

/// Answers as Arbitrum's node does at the address of its interface.
contract DataFeeInterface {
    function gasEstimateL1Component(address to, bool contractCreation, bytes calldata data)
        external
        payable
        returns (uint64 gasEstimateForL1, uint256 baseFee, uint256 l1BaseFeeEstimate)
    {
        require(to != address(0) || contractCreation, "nowhere to send it");
        return (uint64(10_000 + 25 * data.length), block.basefee, 7 gwei);
    }
}
