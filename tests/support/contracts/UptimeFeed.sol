// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

/// Answers as the sequencer uptime feeds of Arbitrum and the OP stack do: it reverts until it has a first round, keeps the
/// time a status began at, and, as on the OP stack, a newer one at which it was last confirmed.
contract UptimeFeed {
    uint8 public constant decimals = 0;
    uint80 public round;
    bool public down;
    uint64 public startedAt;
    uint64 public confirmedAt;

    error Uninitialized();

    function update(bool down_, uint64 timestamp) external {
        if (round == 0 || down_ != down) {
            round++;
            down = down_;
            startedAt = timestamp;
        }
        confirmedAt = uint64(block.timestamp);
    }

    function latestRoundData() external view returns (uint80, int256, uint256, uint256, uint80) {
        if (round == 0) revert Uninitialized();
        return (round, down ? int256(1) : int256(0), startedAt, confirmedAt, round);
    }
}

/// Forwards to the feed in use, as `EACAggregatorProxy` does. With none behind it, it says what a proxy says of a round that
/// nobody has begun.
contract UptimeProxy {
    UptimeFeed public feed;

    function use(UptimeFeed feed_) external {
        feed = feed_;
    }

    function decimals() external view returns (uint8) {
        return address(feed) == address(0) ? 0 : feed.decimals();
    }

    function latestRoundData()
        external
        view
        returns (uint80 id, int256 answer, uint256 startedAt, uint256 updatedAt, uint80 answeredIn)
    {
        if (address(feed) != address(0)) (id, answer, startedAt, updatedAt, answeredIn) = feed.latestRoundData();
    }
}
