// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

interface IToken {
    function transfer(address to, uint256 value) external returns (bool);
    function transferFrom(address from, address to, uint256 value) external returns (bool);
    function balanceOf(address account) external view returns (uint256);
}

interface IBorrower {
    function onLoan(uint256 amount, int256 owed, bytes calldata program) external returns (bytes32);
}

/// A flash lender that can be told to be dishonest in each way a counterparty can be.
contract Lender {
    enum Mode {
        Honest,
        AlteredByte, // flips one byte of the program
        Truncated,
        Extended,
        ForeignProgram, // sends another program, kept from elsewhere
        Twice, // serves the same callback twice
        Nested, // calls again while the first callback is still running, by way of the program
        OtherSender, // lets its accomplice make the callback
        Silent, // never calls back
        Swallow, // hides that the callback failed
        PointsOutside, // the offset of the program points past the calldata
        HugeLength, // the length of the program reaches past the calldata
        HugeOffset, // offset + length overflows
        Static, // calls back with staticcall
        WithValue, // sends coin along with the callback
        Spray, // first tries every payload, insisting that each is refused
        WantsAnswer // insists on the answer it was promised
    }

    Mode public mode;
    Lender public accomplice;
    bytes public kept;
    bytes[] private payloads;
    bytes32 public answer;

    receive() external payable {}

    function setMode(Mode mode_) external {
        mode = mode_;
    }

    function setAccomplice(Lender accomplice_) external {
        accomplice = accomplice_;
    }

    function keep(bytes calldata program) external {
        kept = program;
    }

    function setAnswer(bytes32 answer_) external {
        answer = answer_;
    }

    function setPayloads(bytes[] calldata payloads_) external {
        delete payloads;
        for (uint256 i; i < payloads_.length; ++i) payloads.push(payloads_[i]);
    }

    /// Lends `amount` and expects `amount + fee` to have been sent back when the callback is over.
    function lend(IToken token, uint256 amount, uint256 fee, bytes calldata program) external {
        uint256 before = token.balanceOf(address(this));
        if (amount != 0) token.transfer(msg.sender, amount);
        _callBack(msg.sender, amount, -int256(amount + fee), program);
        // These two lose the loan on purpose: the executor must notice, not they.
        if (mode == Mode.Silent || mode == Mode.Swallow) return;
        require(token.balanceOf(address(this)) >= before + fee, "loan not repaid");
    }

    /// Calls back with what it kept, at any time.
    function again(address borrower) public {
        IBorrower(borrower).onLoan(1, 1, kept);
    }

    /// Makes the callback of another lender.
    function speakFor(address borrower, uint256 amount, int256 owed, bytes memory program) external {
        IBorrower(borrower).onLoan(amount, owed, program);
    }

    function forward(address target, bytes calldata data) external {
        (bool ok, bytes memory reason) = target.call(data);
        if (!ok) _bubble(reason);
    }

    function _callBack(address borrower, uint256 amount, int256 owed, bytes memory program) private {
        Mode how = mode;
        if (how == Mode.Silent) return;
        if (how == Mode.AlteredByte) program[program.length / 2] ^= 0x01;
        if (how == Mode.Truncated) {
            assembly {
                mstore(program, sub(mload(program), 1))
            }
        }
        if (how == Mode.Extended) program = bytes.concat(program, hex"00");
        if (how == Mode.ForeignProgram) program = kept;
        if (how == Mode.Nested) kept = program;

        bytes memory data = abi.encodeCall(IBorrower.onLoan, (amount, owed, program));
        if (how == Mode.PointsOutside) _set(data, 4 + 64, data.length);
        if (how == Mode.HugeLength) _set(data, 4 + 96, data.length);
        if (how == Mode.HugeOffset) _set(data, 4 + 64, type(uint256).max - 31);
        if (how == Mode.Spray) {
            for (uint256 i; i < payloads.length; ++i) {
                (bool accepted,) = borrower.call(payloads[i]);
                require(!accepted, "a stray payload was accepted");
            }
        }
        if (how == Mode.OtherSender) return accomplice.speakFor(borrower, amount, owed, program);

        bool ok;
        bytes memory result;
        if (how == Mode.Static) (ok, result) = borrower.staticcall(data);
        else (ok, result) = borrower.call{value: how == Mode.WithValue ? 1 : 0}(data);
        if (how == Mode.Swallow) return;
        if (!ok) _bubble(result);
        if (how == Mode.WantsAnswer) {
            require(result.length == 32 && abi.decode(result, (bytes32)) == answer, "not the answer promised");
        }
        if (how == Mode.Twice) {
            (ok, result) = borrower.call(data);
            if (!ok) _bubble(result);
        }
    }

    function _set(bytes memory data, uint256 at, uint256 value) private pure {
        assembly {
            mstore(add(add(data, 32), at), value)
        }
    }

    function _bubble(bytes memory reason) private pure {
        assembly {
            revert(add(reason, 32), mload(reason))
        }
    }
}
