// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

/// A token whose manners can be changed: the honest one is an ordinary ERC-20.
contract MannerToken {
    enum Manner {
        Honest,
        AnswersFalse,
        AnswersNothing,
        AnswersTwo,
        AnswersShort,
        Reverts,
        TakesFee,
        InsistsOnZero,
        KeepsApprovals,
        CallsBack
    }

    string public constant symbol = "MANNER";
    uint8 public constant decimals = 18;
    uint256 public totalSupply;
    Manner public manner;
    address public payloadTarget;
    bytes public payload;
    mapping(address => uint256) public balanceOf;
    mapping(address => mapping(address => uint256)) public allowance;

    event Transfer(address indexed from, address indexed to, uint256 value);

    function setManner(Manner manner_) external {
        manner = manner_;
    }

    /// What it does in the middle of a transfer or an approval, and insists on succeeding with.
    function setPayload(address target, bytes calldata data) external {
        manner = Manner.CallsBack;
        payloadTarget = target;
        payload = data;
    }

    function mint(address to, uint256 value) external {
        totalSupply += value;
        balanceOf[to] += value;
        emit Transfer(address(0), to, value);
    }

    function approve(address spender, uint256 value) external returns (bool) {
        if (manner == Manner.InsistsOnZero) require(value == 0 || allowance[msg.sender][spender] == 0, "zero first");
        if (manner == Manner.KeepsApprovals && value == 0) return _answer();
        allowance[msg.sender][spender] = value;
        return _answer();
    }

    function transfer(address to, uint256 value) external returns (bool) {
        _move(msg.sender, to, value);
        return _answer();
    }

    function transferFrom(address from, address to, uint256 value) external returns (bool) {
        require(allowance[from][msg.sender] >= value, "allowance");
        allowance[from][msg.sender] -= value;
        _move(from, to, value);
        return true;
    }

    function _move(address from, address to, uint256 value) private {
        require(balanceOf[from] >= value, "balance");
        balanceOf[from] -= value;
        uint256 received = manner == Manner.TakesFee ? value - value / 100 : value;
        balanceOf[to] += received;
        totalSupply -= value - received;
        emit Transfer(from, to, received);
    }

    function _answer() private returns (bool) {
        if (manner == Manner.AnswersFalse) return false;
        if (manner == Manner.Reverts) revert("token says no");
        if (manner == Manner.AnswersNothing) {
            assembly {
                return(0, 0)
            }
        }
        if (manner == Manner.AnswersTwo) {
            assembly {
                mstore(0, 2)
                return(0, 32)
            }
        }
        if (manner == Manner.AnswersShort) {
            // A word cut short: with a byte left over from an earlier answer it would read as `true`.
            assembly {
                mstore(0, 0)
                return(0, 31)
            }
        }
        if (manner == Manner.CallsBack) {
            (bool ok, bytes memory reason) = payloadTarget.call(payload);
            if (!ok) {
                assembly {
                    revert(add(reason, 32), mload(reason))
                }
            }
        }
        return true;
    }
}
