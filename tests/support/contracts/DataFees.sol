// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

/// Prices data as the OP stack did at Ecotone: 4 gas per zero byte, 16 per other, 68 bytes more for a signature.
contract DataFeeOracle {
    uint256 public price = 1 gwei;
    uint256 public free; // a transaction of no more bytes costs nothing

    function set(uint256 price_) external {
        price = price_;
    }

    function getL1Fee(bytes memory data) external view returns (uint256) {
        if (data.length <= free) return 0;
        uint256 gas_ = 68 * 16;
        for (uint256 i = 0; i < data.length; i++) gas_ += data[i] == 0 ? 4 : 16;
        return (gas_ * price) / 3;
    }
}

/// Prices data as the OP stack has done since Fjord (specs.optimism.io, "Fjord L1-Cost fee changes"): by how long the
/// transaction would be after FastLZ, with 68 bytes more for a signature.
contract FjordDataFeeOracle {
    uint256 private constant WINDOW = 8192; // of distances, and of the hash table
    uint256 private constant TAIL = 13; // bytes at the end that are never matched

    uint256 public scaled; // 16 · base fee · its scalar + blob base fee · its scalar, all of the parent chain

    function set(uint256 scaled_) external {
        scaled = scaled_;
    }

    function getL1Fee(bytes memory data) external view returns (uint256) {
        int256 estimate = 836_500 * int256(compressed(data) + 68) - 42_585_600;
        if (estimate < 100_000_000) estimate = 100_000_000;
        return (uint256(estimate) * scaled) / 1e12;
    }

    /// The length of FastLZ's first level.
    function compressed(bytes memory data) public pure returns (uint256 size) {
        uint256[] memory seen = new uint256[](WINDOW);
        uint256 end = data.length < TAIL ? 0 : data.length - TAIL;
        uint256 done = 0;
        uint256 at = 2;
        while (at < end) {
            uint256 old;
            bool matched = false;
            while (!matched && at < end) {
                uint256 word = three(data, at);
                old = note(seen, word, at);
                matched = at + 1 < end && at - old < WINDOW && three(data, old) == word;
                if (!matched) at++;
            }
            if (!matched) break;
            size += plain(at - done);
            uint256 length = same(data, old + 3, at + 3, end + 9);
            size += 3 * ((length - 1) / 262) + ((length - 1) % 262 >= 6 ? 3 : 2);
            at += length;
            for (uint256 i = 0; i < 2; i++) {
                note(seen, three(data, at), at);
                at++;
            }
            done = at;
        }
        size += plain(data.length - done);
    }

    function note(uint256[] memory seen, uint256 word, uint256 at) private pure returns (uint256 old) {
        uint256 slot = (((word * 2654435769) & type(uint32).max) >> 19) & (WINDOW - 1);
        old = seen[slot];
        seen[slot] = at;
    }

    function three(bytes memory data, uint256 at) private pure returns (uint256) {
        return uint256(uint8(data[at])) | (uint256(uint8(data[at + 1])) << 8) | (uint256(uint8(data[at + 2])) << 16);
    }

    /// How many bytes after the first three are equal, the first that differs counted, as far as `end` allows.
    function same(bytes memory data, uint256 p, uint256 q, uint256 end) private pure returns (uint256 length) {
        uint256 most = end - q;
        while (length < most) {
            length++;
            if (data[p + length - 1] != data[q + length - 1]) break;
        }
    }

    function plain(uint256 count) private pure returns (uint256) {
        return 33 * (count / 32) + (count % 32 == 0 ? 0 : count % 32 + 1);
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
