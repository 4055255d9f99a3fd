// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

/// Written from the published formulas, for tests against the real Morpho Blue. What it has no part of: the reasons that
/// the originals revert with (here every refusal is a plain `require`), the factory's CREATE2 addresses and its table of
/// contracts by parameters, and tokens that return nothing or false.

struct MarketParams {
    address loanToken;
    address collateralToken;
    address oracle;
    address irm;
    uint256 lltv;
}

struct MarketState {
    uint128 totalSupplyAssets;
    uint128 totalSupplyShares;
    uint128 totalBorrowAssets;
    uint128 totalBorrowShares;
    uint128 lastUpdate;
    uint128 fee;
}

interface IMorphoLike {
    function accrueInterest(MarketParams calldata params) external;
    function market(bytes32 id) external view returns (MarketState memory);
    function position(bytes32 id, address user) external view returns (uint256, uint128, uint128);
    function idToMarketParams(bytes32 id) external view returns (MarketParams memory);
    function repay(MarketParams calldata params, uint256 assets, uint256 shares, address onBehalf, bytes calldata data)
        external
        returns (uint256, uint256);
    function withdrawCollateral(MarketParams calldata params, uint256 assets, address onBehalf, address receiver)
        external;
}

interface IPriced {
    function price() external view returns (uint256);
}

interface ITokenLike {
    function approve(address spender, uint256 amount) external returns (bool);
    function transferFrom(address from, address to, uint256 amount) external returns (bool);
}

interface ITaker {
    function onPreLiquidate(uint256 repaid, bytes calldata data) external;
}

/// A rate model that is not the AdaptiveCurveIrm, although it answers to the same names: straight in the utilisation.
contract LinearIrm {
    address public immutable MORPHO;
    uint256 public immutable base;
    uint256 public immutable slope;
    bool public silent;

    event BorrowRateUpdate(bytes32 indexed id, uint256 avgBorrowRate, uint256 rateAtTarget);

    constructor(address morpho, uint256 base_, uint256 slope_) {
        MORPHO = morpho;
        base = base_;
        slope = slope_;
    }

    function hush(bool silent_) external {
        silent = silent_;
    }

    function rateAtTarget(bytes32) external view returns (int256) {
        return int256(base + slope);
    }

    function borrowRate(MarketParams memory params, MarketState memory state) external returns (uint256 rate) {
        rate = _rate(state);
        emit BorrowRateUpdate(keccak256(abi.encode(params)), rate, base + slope);
    }

    function borrowRateView(MarketParams memory, MarketState memory state) external view returns (uint256) {
        require(!silent, "no rate");
        return _rate(state);
    }

    function _rate(MarketState memory state) private view returns (uint256) {
        uint256 supplied = state.totalSupplyAssets;
        return base + (supplied == 0 ? 0 : slope * state.totalBorrowAssets / supplied);
    }
}

/// An oracle that uses up all gas it is given, at once.
contract HungryOracle {
    function price() external view returns (uint256) {
        assembly {
            if gas() { invalid() }
        }
        return 0;
    }
}

/// The same by asking for more memory than any gas can pay.
contract GreedyOracle {
    function price() external view returns (uint256) {
        assembly {
            return(0, shl(40, timestamp()))
        }
    }
}

struct PreLiquidationParams {
    uint256 preLltv;
    uint256 preLCF1;
    uint256 preLCF2;
    uint256 preLIF1;
    uint256 preLIF2;
    address preLiquidationOracle;
}

contract PreLiquidation {
    uint256 private constant WAD = 1e18;
    uint256 private constant SCALE = 1e36;

    IMorphoLike public immutable MORPHO;
    bytes32 public immutable ID;
    MarketParams private _market;
    PreLiquidationParams private _params;

    event PreLiquidate(
        bytes32 indexed id,
        address indexed liquidator,
        address indexed borrower,
        uint256 repaidAssets,
        uint256 repaidShares,
        uint256 seizedAssets
    );

    constructor(address morpho, bytes32 id, PreLiquidationParams memory params) {
        MORPHO = IMorphoLike(morpho);
        ID = id;
        MarketParams memory found = IMorphoLike(morpho).idToMarketParams(id);
        require(found.loanToken != address(0) && params.preLltv < found.lltv, "market");
        require(params.preLCF1 <= params.preLCF2 && params.preLCF1 <= WAD, "close factors");
        require(WAD <= params.preLIF1 && params.preLIF1 <= params.preLIF2, "incentive factors");
        require(params.preLIF2 <= WAD * WAD / found.lltv, "incentive too high");
        _market = found;
        _params = params;
        ITokenLike(found.loanToken).approve(morpho, type(uint256).max);
    }

    function preLiquidate(address borrower, uint256 seized, uint256 shares, bytes calldata data)
        external
        returns (uint256, uint256)
    {
        require((seized == 0) != (shares == 0), "one of both");
        MORPHO.accrueInterest(_market);
        MarketState memory state = MORPHO.market(ID);
        (, uint256 owedShares, uint256 collateral) = MORPHO.position(ID, borrower);
        uint256 price = IPriced(_params.preLiquidationOracle).price();
        uint256 quotient = _quotient(_up(owedShares, state.totalBorrowAssets + 1, state.totalBorrowShares + 1e6), collateral * price / SCALE);
        uint256 factor = quotient * (_params.preLIF2 - _params.preLIF1) / WAD + _params.preLIF1;
        if (seized > 0) {
            uint256 worth = _up(_up(seized, price, SCALE), WAD, factor);
            shares = _up(worth, state.totalBorrowShares + 1e6, state.totalBorrowAssets + 1);
        } else {
            uint256 assets = shares * (state.totalBorrowAssets + 1) / (state.totalBorrowShares + 1e6);
            seized = assets * factor / WAD * SCALE / price;
        }
        require(shares <= owedShares * (quotient * (_params.preLCF2 - _params.preLCF1) / WAD + _params.preLCF1) / WAD, "too large");
        (uint256 repaid,) = MORPHO.repay(_market, 0, shares, borrower, abi.encode(seized, borrower, msg.sender, data));
        emit PreLiquidate(ID, msg.sender, borrower, repaid, shares, seized);
        return (seized, repaid);
    }

    function onMorphoRepay(uint256 repaid, bytes calldata passed) external {
        require(msg.sender == address(MORPHO), "not Morpho");
        (uint256 seized, address borrower, address liquidator, bytes memory data) =
            abi.decode(passed, (uint256, address, address, bytes));
        MORPHO.withdrawCollateral(_market, seized, borrower, liquidator);
        if (data.length > 0) ITaker(liquidator).onPreLiquidate(repaid, data);
        require(ITokenLike(_market.loanToken).transferFrom(liquidator, address(this), repaid), "not paid");
    }

    /// Where between its own LLTV and the market's the position stands, 0 to 1.
    function _quotient(uint256 owed, uint256 worth) private view returns (uint256) {
        require(owed <= worth * _market.lltv / WAD, "liquidatable");
        require(owed > worth * _params.preLltv / WAD, "not yet");
        return (_up(owed, WAD, worth) - _params.preLltv) * WAD / (_market.lltv - _params.preLltv);
    }

    function _up(uint256 a, uint256 b, uint256 c) private pure returns (uint256) {
        return (a * b + c - 1) / c;
    }
}

contract PreLiquidationFactory {
    address public immutable MORPHO;

    event CreatePreLiquidation(address indexed preLiquidation, bytes32 id, PreLiquidationParams preLiquidationParams);

    constructor(address morpho) {
        MORPHO = morpho;
    }

    function createPreLiquidation(bytes32 id, PreLiquidationParams calldata params) external returns (address made) {
        made = address(new PreLiquidation(MORPHO, id, params));
        emit CreatePreLiquidation(made, id, params);
    }
}
