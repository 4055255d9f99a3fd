// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

/// A price feed's aggregator: the contract that keeps the rounds and emits the logs. Anybody may post an answer.
contract FeedAggregator {
    struct Round {
        int256 answer;
        uint256 updatedAt;
    }

    uint8 public immutable decimals;
    string public description;
    uint256 public constant version = 4;
    uint256 public latestRound;
    mapping(uint256 => Round) private _rounds;

    event AnswerUpdated(int256 indexed current, uint256 indexed roundId, uint256 updatedAt);
    event NewRound(uint256 indexed roundId, address indexed startedBy, uint256 startedAt);

    constructor(uint8 decimals_, string memory description_, int256 answer) {
        decimals = decimals_;
        description = description_;
        post(answer);
    }

    function post(int256 answer) public {
        uint256 round = ++latestRound;
        _rounds[round] = Round(answer, block.timestamp);
        emit NewRound(round, msg.sender, block.timestamp);
        emit AnswerUpdated(answer, round, block.timestamp);
    }

    /// The entries of an OCR2 aggregator: the answer is the median of a sorted report. Nobody signs here.
    function transmit(
        bytes32[3] calldata,
        bytes calldata report,
        bytes32[] calldata,
        bytes32[] calldata,
        bytes32
    ) external {
        _take(report);
    }

    function transmitSecondary(
        bytes32[3] calldata,
        bytes calldata report,
        bytes32[] calldata,
        bytes32[] calldata,
        bytes32
    ) external {
        _take(report);
    }

    function _take(bytes calldata report) private {
        (,, int192[] memory observed,) = abi.decode(report, (uint32, bytes32, int192[], int192));
        for (uint256 i = 1; i < observed.length; ++i) require(observed[i - 1] <= observed[i], "observations not sorted");
        post(observed[observed.length / 2]);
    }

    function latestAnswer() external view returns (int256) {
        return _rounds[latestRound].answer;
    }

    function latestTimestamp() external view returns (uint256) {
        return _rounds[latestRound].updatedAt;
    }

    function getAnswer(uint256 round) external view returns (int256) {
        return _rounds[round].answer;
    }

    function getTimestamp(uint256 round) external view returns (uint256) {
        return _rounds[round].updatedAt;
    }

    function getRoundData(uint80 round) public view returns (uint80, int256, uint256, uint256, uint80) {
        Round storage found = _rounds[round];
        require(found.updatedAt != 0, "No data present");
        return (round, found.answer, found.updatedAt, found.updatedAt, round);
    }

    function latestRoundData() external view returns (uint80, int256, uint256, uint256, uint80) {
        return getRoundData(uint80(latestRound));
    }
}

/// What a node operator's key calls instead of the aggregator.
contract FeedForwarder {
    function forward(address to, bytes calldata data) external {
        (bool ok, bytes memory answer) = to.call(data);
        if (!ok) {
            assembly {
                revert(add(answer, 32), mload(answer))
            }
        }
    }
}

/// The address consumers read. It forwards to the aggregator of its present phase and, as the original, says nothing
/// when that is switched. Round ids carry the phase in their upper bits.
contract FeedProxy {
    uint16 public phaseId;
    mapping(uint16 => address) public phaseAggregators;

    constructor(address aggregator_) {
        switchAggregator(aggregator_);
    }

    function switchAggregator(address next) public {
        phaseAggregators[++phaseId] = next;
    }

    function aggregator() public view returns (address) {
        return phaseAggregators[phaseId];
    }

    function decimals() external view returns (uint8) {
        return FeedAggregator(aggregator()).decimals();
    }

    function description() external view returns (string memory) {
        return FeedAggregator(aggregator()).description();
    }

    function version() external view returns (uint256) {
        return FeedAggregator(aggregator()).version();
    }

    function latestAnswer() external view returns (int256) {
        return FeedAggregator(aggregator()).latestAnswer();
    }

    function latestTimestamp() external view returns (uint256) {
        return FeedAggregator(aggregator()).latestTimestamp();
    }

    function latestRound() external view returns (uint256) {
        return _tag(phaseId, uint80(FeedAggregator(aggregator()).latestRound()));
    }

    function getAnswer(uint256 round) external view returns (int256) {
        return FeedAggregator(phaseAggregators[uint16(round >> 64)]).getAnswer(uint64(round));
    }

    function getTimestamp(uint256 round) external view returns (uint256) {
        return FeedAggregator(phaseAggregators[uint16(round >> 64)]).getTimestamp(uint64(round));
    }

    function getRoundData(uint80 round) external view returns (uint80, int256, uint256, uint256, uint80) {
        uint16 phase = uint16(round >> 64);
        return _tagged(phase, FeedAggregator(phaseAggregators[phase]), uint64(round));
    }

    function latestRoundData() external view returns (uint80, int256, uint256, uint256, uint80) {
        FeedAggregator present = FeedAggregator(aggregator());
        return _tagged(phaseId, present, uint80(present.latestRound()));
    }

    function _tagged(
        uint16 phase,
        FeedAggregator from,
        uint80 round
    ) private view returns (uint80 id, int256 answer, uint256 started, uint256 updated, uint80 answeredIn) {
        (, answer, started, updated,) = from.getRoundData(round);
        id = answeredIn = _tag(phase, round);
    }

    function _tag(uint16 phase, uint80 round) private pure returns (uint80) {
        return (uint80(phase) << 64) | round;
    }
}
