// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

// A model of Compound V3 (Comet), written from the protocol's documented formulas, events and storage records, because no
// package publishes its bytecode. What it does have is meant to behave to the wei like the deployed contracts: indices
// and rates, principals and present values with their roundings, silent moves of debt, health with its early exit,
// absorption, the store front, pauses, reserves, and an implementation behind a proxy whose parameters are immutable.
//
// Not modelled:
// - permissions: nobody acts for another account (allow, allowBySig, supplyFrom, withdrawFrom, transferFrom), and nobody
//   is governor or guardian: everybody may pause, withdraw reserves and upgrade;
// - rewards: tracking indices and accruals stay zero, and so do liquidator points;
// - supply caps, the reentrancy guard, `approveThis`, and the checks of a configuration when it is deployed;
// - factors rounded to four decimals and the packed asset words (assets are in plain storage here);
// - the further pause flags and the deactivated collaterals of the newest deployments, and partial liquidation;
// - an extension delegate: its views are part of the model itself;
// - the governance around it: configurator, factory, proxy admin.

interface IModelToken {
    function balanceOf(address who) external view returns (uint256);
    function decimals() external view returns (uint8);
}

interface IModelFeed {
    function latestRoundData() external view returns (uint80, int256, uint256, uint256, uint80);
}

struct ModelAsset {
    uint8 offset;
    address asset;
    address priceFeed;
    uint64 scale;
    uint64 borrowCollateralFactor;
    uint64 liquidateCollateralFactor;
    uint64 liquidationFactor;
    uint128 supplyCap;
}

/// The collateral assets of one implementation, in order. They never change.
contract CometModelAssets {
    ModelAsset[] private _assets;

    /// Factors are wad; three per asset: borrow, liquidate, liquidation.
    constructor(address[] memory tokens, address[] memory feeds, uint64[3][] memory factors) {
        require(tokens.length <= 24 && tokens.length == feeds.length && tokens.length == factors.length, "assets");
        for (uint8 i; i < tokens.length; ++i) {
            uint64 scale = uint64(10 ** IModelToken(tokens[i]).decimals());
            uint64[3] memory f = factors[i];
            _assets.push(ModelAsset(i, tokens[i], feeds[i], scale, f[0], f[1], f[2], type(uint128).max));
        }
    }

    function count() external view returns (uint256) {
        return _assets.length;
    }

    function at(uint8 i) external view returns (ModelAsset memory) {
        return _assets[i];
    }
}

/// Delegates everything to an implementation that anybody may replace.
contract CometModelProxy {
    // keccak256("eip1967.proxy.implementation") - 1
    bytes32 private constant _SLOT = 0x360894a13ba1a3210667c828492db98dca3e2076cc3735a920a3ca505d382bbc;

    event Upgraded(address indexed implementation);

    constructor(address implementation) {
        upgradeTo(implementation);
    }

    function upgradeTo(address implementation) public {
        bytes32 slot = _SLOT;
        assembly {
            sstore(slot, implementation)
        }
        emit Upgraded(implementation);
    }

    fallback() external payable {
        bytes32 slot = _SLOT;
        assembly {
            calldatacopy(0, 0, calldatasize())
            let done := delegatecall(gas(), sload(slot), 0, calldatasize(), 0, 0)
            returndatacopy(0, 0, returndatasize())
            if iszero(done) { revert(0, returndatasize()) }
            return(0, returndatasize())
        }
    }
}

contract CometModel {
    struct TotalsBasic {
        uint64 baseSupplyIndex;
        uint64 baseBorrowIndex;
        uint64 trackingSupplyIndex;
        uint64 trackingBorrowIndex;
        uint104 totalSupplyBase;
        uint104 totalBorrowBase;
        uint40 lastAccrualTime;
        uint8 pauseFlags;
    }

    struct UserBasic {
        int104 principal;
        uint64 baseTrackingIndex;
        uint64 baseTrackingAccrued;
        uint16 assetsIn;
        uint8 _reserved;
    }

    struct Held {
        uint128 amount;
        uint128 _reserved;
    }

    error BadAsset();
    error BadPrice();
    error BorrowTooSmall();
    error InsufficientReserves();
    error NoSelfTransfer();
    error NotCollateralized();
    error NotForSale();
    error NotLiquidatable();
    error Paused();
    error TooMuchSlippage();
    error TransferInFailed();
    error TransferOutFailed();

    event Supply(address indexed from, address indexed dst, uint256 amount);
    event Transfer(address indexed from, address indexed to, uint256 amount);
    event Withdraw(address indexed src, address indexed to, uint256 amount);
    event SupplyCollateral(address indexed from, address indexed dst, address indexed asset, uint256 amount);
    event TransferCollateral(address indexed from, address indexed to, address indexed asset, uint256 amount);
    event WithdrawCollateral(address indexed src, address indexed to, address indexed asset, uint256 amount);
    event AbsorbDebt(address indexed absorber, address indexed borrower, uint256 basePaidOut, uint256 usdValue);
    event AbsorbCollateral(
        address indexed absorber,
        address indexed borrower,
        address indexed asset,
        uint256 collateralAbsorbed,
        uint256 usdValue
    );
    event BuyCollateral(address indexed buyer, address indexed asset, uint256 baseAmount, uint256 collateralAmount);
    event PauseAction(bool supplyPaused, bool transferPaused, bool withdrawPaused, bool absorbPaused, bool buyPaused);
    event WithdrawReserves(address indexed to, uint256 amount);

    uint256 private constant _INDEX = 1e15;
    uint256 private constant _FACTOR = 1e18;

    address public immutable baseToken;
    address public immutable baseTokenPriceFeed;
    CometModelAssets private immutable _list;
    uint8 public immutable numAssets;
    uint256 public immutable baseScale;
    uint256 public immutable supplyKink;
    uint256 public immutable supplyPerSecondInterestRateSlopeLow;
    uint256 public immutable supplyPerSecondInterestRateSlopeHigh;
    uint256 public immutable supplyPerSecondInterestRateBase;
    uint256 public immutable borrowKink;
    uint256 public immutable borrowPerSecondInterestRateSlopeLow;
    uint256 public immutable borrowPerSecondInterestRateSlopeHigh;
    uint256 public immutable borrowPerSecondInterestRateBase;
    uint256 public immutable storeFrontPriceFactor;
    uint256 public immutable baseBorrowMin;
    uint256 public immutable targetReserves;

    TotalsBasic private _totals;
    mapping(address => Held) private _collateral;
    mapping(address => UserBasic) public userBasic;
    mapping(address => mapping(address => Held)) public userCollateral;

    /// `rates`: supply kink, slope low, slope high and base, then the same four of borrowing; per second, wad.
    constructor(
        address base,
        address feed,
        CometModelAssets list,
        uint64[8] memory rates,
        uint256 frontFactor,
        uint256 borrowMin,
        uint256 target
    ) {
        baseToken = base;
        baseTokenPriceFeed = feed;
        _list = list;
        numAssets = uint8(list.count());
        baseScale = 10 ** IModelToken(base).decimals();
        supplyKink = rates[0];
        supplyPerSecondInterestRateSlopeLow = rates[1];
        supplyPerSecondInterestRateSlopeHigh = rates[2];
        supplyPerSecondInterestRateBase = rates[3];
        borrowKink = rates[4];
        borrowPerSecondInterestRateSlopeLow = rates[5];
        borrowPerSecondInterestRateSlopeHigh = rates[6];
        borrowPerSecondInterestRateBase = rates[7];
        storeFrontPriceFactor = frontFactor;
        baseBorrowMin = borrowMin;
        targetReserves = target;
    }

    function initializeStorage() external {
        require(_totals.lastAccrualTime == 0, "initialized");
        _totals.lastAccrualTime = uint40(block.timestamp);
        _totals.baseSupplyIndex = uint64(_INDEX);
        _totals.baseBorrowIndex = uint64(_INDEX);
    }

    // ------------------------------------------------------------------------------------------------- views

    function totalsBasic() external view returns (TotalsBasic memory) {
        return _totals;
    }

    function totalsCollateral(address asset) external view returns (uint128, uint128) {
        return (_collateral[asset].amount, 0);
    }

    function getAssetInfo(uint8 i) public view returns (ModelAsset memory) {
        if (i >= numAssets) revert BadAsset();
        return _list.at(i);
    }

    function getPrice(address feed) public view returns (uint256) {
        (, int256 answer,,,) = IModelFeed(feed).latestRoundData();
        if (answer <= 0) revert BadPrice();
        return uint256(answer);
    }

    function getUtilization() public view returns (uint256) {
        uint256 supplied = _up(_totals.totalSupplyBase, _totals.baseSupplyIndex);
        return supplied == 0 ? 0 : _up(_totals.totalBorrowBase, _totals.baseBorrowIndex) * _FACTOR / supplied;
    }

    function getSupplyRate(uint256 utilization) public view returns (uint64) {
        return _rate(
            utilization,
            supplyKink,
            supplyPerSecondInterestRateBase,
            supplyPerSecondInterestRateSlopeLow,
            supplyPerSecondInterestRateSlopeHigh
        );
    }

    function getBorrowRate(uint256 utilization) public view returns (uint64) {
        return _rate(
            utilization,
            borrowKink,
            borrowPerSecondInterestRateBase,
            borrowPerSecondInterestRateSlopeLow,
            borrowPerSecondInterestRateSlopeHigh
        );
    }

    function getReserves() public view returns (int256) {
        (uint64 supplyIndex, uint64 borrowIndex) = _indices();
        return int256(IModelToken(baseToken).balanceOf(address(this)))
            - int256(_up(_totals.totalSupplyBase, supplyIndex)) + int256(_up(_totals.totalBorrowBase, borrowIndex));
    }

    function getCollateralReserves(address asset) public view returns (uint256) {
        return IModelToken(asset).balanceOf(address(this)) - _collateral[asset].amount;
    }

    function balanceOf(address who) public view returns (uint256) {
        (uint64 supplyIndex,) = _indices();
        int104 principal = userBasic[who].principal;
        return principal > 0 ? _up(uint104(principal), supplyIndex) : 0;
    }

    function borrowBalanceOf(address who) public view returns (uint256) {
        (, uint64 borrowIndex) = _indices();
        int104 principal = userBasic[who].principal;
        return principal < 0 ? _up(uint104(-principal), borrowIndex) : 0;
    }

    function isBorrowCollateralized(address who) public view returns (bool) {
        return _stands(who, true);
    }

    function isLiquidatable(address who) public view returns (bool) {
        return !_stands(who, false);
    }

    function isAbsorbPaused() public view returns (bool) {
        return _paused(3);
    }

    function isBuyPaused() public view returns (bool) {
        return _paused(4);
    }

    function quoteCollateral(address asset, uint256 baseAmount) public view returns (uint256) {
        ModelAsset memory info = _info(asset);
        uint256 discount = _part(storeFrontPriceFactor, _FACTOR - info.liquidationFactor);
        uint256 asked = _part(getPrice(info.priceFeed), _FACTOR - discount);
        return getPrice(baseTokenPriceFeed) * baseAmount * info.scale / asked / baseScale;
    }

    // ----------------------------------------------------------------------------------------------- actions

    function accrueAccount(address) external {
        _accrue();
    }

    function supply(address asset, uint256 amount) external {
        supplyTo(msg.sender, asset, amount);
    }

    function supplyTo(address dst, address asset, uint256 amount) public {
        if (_paused(0)) revert Paused();
        if (asset != baseToken) {
            amount = _pull(asset, amount);
            _collateral[asset].amount += uint128(amount);
            _hold(dst, _info(asset), userCollateral[dst][asset].amount + uint128(amount));
            emit SupplyCollateral(msg.sender, dst, asset, amount);
            return;
        }
        amount = _pull(asset, amount == type(uint256).max ? borrowBalanceOf(dst) : amount);
        _accrue();
        (, uint256 grown) = _credit(dst, amount);
        emit Supply(msg.sender, dst, amount);
        if (grown > 0) emit Transfer(address(0), dst, _up(grown, _totals.baseSupplyIndex));
    }

    function withdraw(address asset, uint256 amount) external {
        withdrawTo(msg.sender, asset, amount);
    }

    function withdrawTo(address to, address asset, uint256 amount) public {
        if (_paused(2)) revert Paused();
        if (asset != baseToken) {
            _collateral[asset].amount -= uint128(amount);
            _hold(msg.sender, _info(asset), userCollateral[msg.sender][asset].amount - uint128(amount));
            if (!isBorrowCollateralized(msg.sender)) revert NotCollateralized();
            _push(asset, to, amount);
            emit WithdrawCollateral(msg.sender, to, asset, amount);
            return;
        }
        if (amount == type(uint256).max) amount = balanceOf(msg.sender);
        _accrue();
        (int256 left, uint256 shrunk) = _debit(msg.sender, amount);
        _mayOwe(msg.sender, left);
        _push(asset, to, amount);
        emit Withdraw(msg.sender, to, amount);
        if (shrunk > 0) emit Transfer(msg.sender, address(0), _up(shrunk, _totals.baseSupplyIndex));
    }

    function transfer(address dst, uint256 amount) external returns (bool) {
        transferAsset(dst, baseToken, amount);
        return true;
    }

    /// Base that is borrowed by the sender, or repays the receiver's debt, moves without any event.
    function transferAsset(address dst, address asset, uint256 amount) public {
        if (_paused(1)) revert Paused();
        if (msg.sender == dst) revert NoSelfTransfer();
        if (asset != baseToken) {
            _hold(msg.sender, _info(asset), userCollateral[msg.sender][asset].amount - uint128(amount));
            _hold(dst, _info(asset), userCollateral[dst][asset].amount + uint128(amount));
            if (!isBorrowCollateralized(msg.sender)) revert NotCollateralized();
            emit TransferCollateral(msg.sender, dst, asset, amount);
            return;
        }
        if (amount == type(uint256).max) amount = balanceOf(msg.sender);
        _accrue();
        (, uint256 grown) = _credit(dst, amount);
        (int256 left, uint256 shrunk) = _debit(msg.sender, amount);
        _mayOwe(msg.sender, left);
        if (shrunk > 0) emit Transfer(msg.sender, address(0), _up(shrunk, _totals.baseSupplyIndex));
        if (grown > 0) emit Transfer(address(0), dst, _up(grown, _totals.baseSupplyIndex));
    }

    function absorb(address absorber, address[] calldata accounts) external {
        if (isAbsorbPaused()) revert Paused();
        _accrue();
        for (uint256 i; i < accounts.length; ++i) {
            _absorb(absorber, accounts[i]);
        }
    }

    function buyCollateral(address asset, uint256 minAmount, uint256 baseAmount, address recipient) external {
        if (isBuyPaused()) revert Paused();
        int256 reserves = getReserves();
        if (reserves >= 0 && uint256(reserves) >= targetReserves) revert NotForSale();
        baseAmount = _pull(baseToken, baseAmount);
        uint256 bought = quoteCollateral(asset, baseAmount);
        if (bought < minAmount) revert TooMuchSlippage();
        if (bought > getCollateralReserves(asset)) revert InsufficientReserves();
        _push(asset, recipient, bought);
        emit BuyCollateral(msg.sender, asset, baseAmount, bought);
    }

    function pause(bool supply_, bool transfer_, bool withdraw_, bool absorb_, bool buy_) external {
        uint8 flags = supply_ ? 1 : 0;
        if (transfer_) flags |= 2;
        if (withdraw_) flags |= 4;
        if (absorb_) flags |= 8;
        if (buy_) flags |= 16;
        _totals.pauseFlags = flags;
        emit PauseAction(supply_, transfer_, withdraw_, absorb_, buy_);
    }

    function withdrawReserves(address to, uint256 amount) external {
        int256 reserves = getReserves();
        if (reserves < 0 || amount > uint256(reserves)) revert InsufficientReserves();
        _push(baseToken, to, amount);
        emit WithdrawReserves(to, amount);
    }

    // ---------------------------------------------------------------------------------------------- internals

    function _absorb(address absorber, address who) private {
        if (!isLiquidatable(who)) revert NotLiquidatable();
        int256 owed = _present(userBasic[who].principal);
        uint256 basePrice = getPrice(baseTokenPriceFeed);
        uint256 credit;
        for (uint8 i; i < numAssets; ++i) {
            if (!_isIn(who, i)) continue;
            ModelAsset memory info = _list.at(i);
            uint128 seized = userCollateral[who][info.asset].amount;
            userCollateral[who][info.asset].amount = 0;
            _collateral[info.asset].amount -= seized;
            uint256 value = seized * getPrice(info.priceFeed) / info.scale;
            credit += _part(value, info.liquidationFactor);
            emit AbsorbCollateral(absorber, who, info.asset, seized, value);
        }
        int256 balance = owed + int256(credit * baseScale / basePrice);
        if (balance < 0) balance = 0;
        userBasic[who].assetsIn = 0;
        userBasic[who]._reserved = 0;
        _credit(who, uint256(balance - owed));
        uint256 paid = uint256(balance - owed);
        emit AbsorbDebt(absorber, who, paid, paid * basePrice / baseScale);
        int104 left = userBasic[who].principal;
        if (left > 0) emit Transfer(address(0), who, _up(uint104(left), _totals.baseSupplyIndex));
    }

    /// Whether the collateral, at the factor for borrowing or for liquidation, covers the debt by the stored index.
    function _stands(address who, bool borrowing) private view returns (bool) {
        int104 principal = userBasic[who].principal;
        if (principal >= 0) return true;
        int256 left = _present(principal) * int256(getPrice(baseTokenPriceFeed)) / int256(baseScale);
        for (uint8 i; i < numAssets; ++i) {
            if (!_isIn(who, i)) continue;
            if (left >= 0) return true;
            ModelAsset memory info = _list.at(i);
            uint256 value = userCollateral[who][info.asset].amount * getPrice(info.priceFeed) / info.scale;
            left += int256(_part(value, borrowing ? info.borrowCollateralFactor : info.liquidateCollateralFactor));
        }
        return left >= 0;
    }

    function _mayOwe(address who, int256 balance) private view {
        if (balance >= 0) return;
        if (uint256(-balance) < baseBorrowMin) revert BorrowTooSmall();
        if (!isBorrowCollateralized(who)) revert NotCollateralized();
    }

    /// Adds base; returns the balance after it and by how much the supplied principal grew.
    function _credit(address who, uint256 amount) private returns (int256 balance, uint256 grown) {
        int104 before = userBasic[who].principal;
        balance = _present(before) + int256(amount);
        int104 next = _principal(balance);
        userBasic[who].principal = next;
        if (next < before) return (balance, 0); // rounding alone, of nothing added: the totals are left as they are
        grown = _positive(next) - _positive(before);
        _totals.totalSupplyBase += uint104(grown);
        _totals.totalBorrowBase -= uint104(_positive(-before) - _positive(-next));
    }

    /// Takes base away, into debt if need be; returns the balance after it and by how much the principal shrank.
    function _debit(address who, uint256 amount) private returns (int256 balance, uint256 shrunk) {
        int104 before = userBasic[who].principal;
        balance = _present(before) - int256(amount);
        int104 next = _principal(balance);
        userBasic[who].principal = next;
        if (next > before) return (balance, 0);
        shrunk = _positive(before) - _positive(next);
        _totals.totalSupplyBase -= uint104(shrunk);
        _totals.totalBorrowBase += uint104(_positive(-next) - _positive(-before));
    }

    function _hold(address who, ModelAsset memory info, uint128 amount) private {
        uint128 before = userCollateral[who][info.asset].amount;
        userCollateral[who][info.asset].amount = amount;
        if ((before == 0) == (amount == 0)) return;
        if (info.offset < 16) userBasic[who].assetsIn ^= uint16(1 << info.offset);
        else userBasic[who]._reserved ^= uint8(1 << (info.offset - 16));
    }

    function _accrue() private {
        (_totals.baseSupplyIndex, _totals.baseBorrowIndex) = _indices();
        _totals.lastAccrualTime = uint40(block.timestamp);
    }

    function _indices() private view returns (uint64 supplyIndex, uint64 borrowIndex) {
        (supplyIndex, borrowIndex) = (_totals.baseSupplyIndex, _totals.baseBorrowIndex);
        uint256 elapsed = block.timestamp - _totals.lastAccrualTime;
        if (elapsed == 0) return (supplyIndex, borrowIndex);
        uint256 utilization = getUtilization();
        supplyIndex += uint64(_part(supplyIndex, getSupplyRate(utilization) * elapsed));
        borrowIndex += uint64(_part(borrowIndex, getBorrowRate(utilization) * elapsed));
    }

    function _rate(uint256 used, uint256 kink, uint256 base, uint256 low, uint256 high) private pure returns (uint64) {
        if (used <= kink) return uint64(base + _part(low, used));
        return uint64(base + _part(low, kink) + _part(high, used - kink));
    }

    function _present(int104 principal) private view returns (int256) {
        if (principal >= 0) return int256(_up(uint104(principal), _totals.baseSupplyIndex));
        return -int256(_up(uint104(-principal), _totals.baseBorrowIndex));
    }

    function _principal(int256 balance) private view returns (int104) {
        if (balance >= 0) return int104(int256(uint256(balance) * _INDEX / _totals.baseSupplyIndex));
        uint256 index = _totals.baseBorrowIndex;
        return -int104(int256((uint256(-balance) * _INDEX + index - 1) / index));
    }

    function _info(address asset) private view returns (ModelAsset memory info) {
        for (uint8 i; i < numAssets; ++i) {
            info = _list.at(i);
            if (info.asset == asset) return info;
        }
        revert BadAsset();
    }

    function _isIn(address who, uint8 i) private view returns (bool) {
        if (i < 16) return userBasic[who].assetsIn >> i & 1 == 1;
        return userBasic[who]._reserved >> (i - 16) & 1 == 1;
    }

    function _paused(uint8 flag) private view returns (bool) {
        return _totals.pauseFlags >> flag & 1 == 1;
    }

    function _positive(int104 number) private pure returns (uint256) {
        return number > 0 ? uint104(number) : 0;
    }

    function _up(uint256 principal, uint256 index) private pure returns (uint256) {
        return principal * index / _INDEX;
    }

    function _part(uint256 number, uint256 factor) private pure returns (uint256) {
        return number * factor / _FACTOR;
    }

    function _pull(address token, uint256 amount) private returns (uint256) {
        uint256 before = IModelToken(token).balanceOf(address(this));
        bytes memory call = abi.encodeWithSignature(
            "transferFrom(address,address,uint256)", msg.sender, address(this), amount
        );
        (bool done, bytes memory answer) = token.call(call);
        if (!done || (answer.length != 0 && !abi.decode(answer, (bool)))) revert TransferInFailed();
        return IModelToken(token).balanceOf(address(this)) - before;
    }

    function _push(address token, address to, uint256 amount) private {
        (bool done, bytes memory answer) = token.call(abi.encodeWithSignature("transfer(address,uint256)", to, amount));
        if (!done || (answer.length != 0 && !abi.decode(answer, (bool)))) revert TransferOutFailed();
    }
}

/// Looks like an implementation that absorbs accounts in part, which is told by its target health factor. It does not.
contract CometModelPartial is CometModel {
    constructor(
        address base,
        address feed,
        CometModelAssets list,
        uint64[8] memory rates,
        uint256 frontFactor,
        uint256 borrowMin,
        uint256 target
    ) CometModel(base, feed, list, rates, frontFactor, borrowMin, target) {}

    function healthFactor(address) external pure returns (uint256) {
        return 1e18;
    }
}
