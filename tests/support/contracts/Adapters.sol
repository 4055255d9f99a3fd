// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

interface IFeed {
    function latestAnswer() external view returns (int256);
}

/// A price made of another feed's answer: so many basis points of it, and never more than a cap.
contract CappedAdapter {
    IFeed private immutable _feed;
    int256 private immutable _bps;
    int256 private immutable _cap;
    uint8 public constant decimals = 8;

    constructor(address feed, int256 bps, int256 cap) {
        _feed = IFeed(feed);
        _bps = bps;
        _cap = cap;
    }

    function latestAnswer() external view returns (int256) {
        int256 made = _feed.latestAnswer() * _bps / 10_000;
        return made < _cap ? made : _cap;
    }
}
