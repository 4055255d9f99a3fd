// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

interface IHolding {
    function balanceOf(address account) external view returns (uint256);
    function allowance(address owner, address spender) external view returns (uint256);
}

/// An operator that does several things in one transaction and checks what must hold after any of them.
contract Referee {
    receive() external payable {}

    /// Every call must succeed.
    function all(address target, bytes[] calldata calls) external {
        for (uint256 i; i < calls.length; ++i) {
            (bool ok, bytes memory reason) = target.call(calls[i]);
            if (!ok) {
                assembly {
                    revert(add(reason, 32), mload(reason))
                }
            }
        }
    }

    /// Runs `execution`, whatever becomes of it, and then insists: the executor holds of `tokens[0]` exactly what it
    /// held before and nothing of the others, no spender has an allowance, stray callbacks are refused, and `sound`, a
    /// good execution in the same transaction, still works.
    function judge(
        address executor,
        bytes calldata execution,
        address[] calldata tokens,
        address[] calldata spenders,
        bytes[] calldata strays,
        bytes calldata sound
    ) external returns (bool ok, bytes memory reason) {
        uint256 held = IHolding(tokens[0]).balanceOf(executor);
        (ok, reason) = executor.call(execution);
        require(IHolding(tokens[0]).balanceOf(executor) == held, "the profit token's balance moved");
        _nothingLeft(executor, tokens, spenders);
        for (uint256 i; i < strays.length; ++i) {
            (bool accepted,) = executor.call(strays[i]);
            require(!accepted, "a stray callback was accepted");
        }
        (bool works,) = executor.call(sound);
        require(works, "a sound execution failed afterwards");
    }

    function _nothingLeft(address executor, address[] calldata tokens, address[] calldata spenders) private view {
        for (uint256 i; i < tokens.length; ++i) {
            require(i == 0 || IHolding(tokens[i]).balanceOf(executor) == 0, "a token was left behind");
            for (uint256 j; j < spenders.length; ++j) {
                require(IHolding(tokens[i]).allowance(executor, spenders[j]) == 0, "an approval was left standing");
            }
        }
        require(executor.balance == 0, "coin was left behind");
    }
}

/// Takes seized debt and hands out collateral, as a lending market's liquidation does, at a fixed rate.
contract ToyMarket {
    /// Pulls `repay` of the debt token from the caller and sends it `seized` of the collateral.
    function liquidate(address debt, address collateral, uint256 repay, uint256 seized) external {
        // Low-level, because USDT answers nothing.
        _do(debt, abi.encodeWithSignature("transferFrom(address,address,uint256)", msg.sender, address(this), repay));
        _do(collateral, abi.encodeWithSignature("transfer(address,uint256)", msg.sender, seized));
    }

    function _do(address token, bytes memory data) private {
        (bool ok, bytes memory answer) = token.call(data);
        require(ok && (answer.length == 0 || abi.decode(answer, (bool))), "token refused the market");
    }
}

/// A block producer's contract that does not want to be paid, or abuses being paid.
contract Coinbase {
    address public target;
    bytes public data;
    bool public refuses;

    function set(bool refuses_, address target_, bytes calldata data_) external {
        refuses = refuses_;
        target = target_;
        data = data_;
    }

    receive() external payable {
        require(!refuses, "no thanks");
        if (target != address(0)) {
            (bool ok, bytes memory reason) = target.call(data);
            if (!ok) {
                assembly {
                    revert(add(reason, 32), mload(reason))
                }
            }
        }
    }
}
