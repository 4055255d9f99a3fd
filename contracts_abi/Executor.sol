// SPDX-License-Identifier: MIT
pragma solidity 0.8.27;

interface IERC20 {
    function balanceOf(address account) external view returns (uint256);
    function allowance(address owner, address spender) external view returns (uint256);
    function transfer(address to, uint256 amount) external returns (bool);
    function approve(address spender, uint256 amount) external returns (bool);
}

interface IWrappedNative {
    function withdraw(uint256 amount) external;
}

interface IPairV2 {
    function token0() external view returns (address);
    function token1() external view returns (address);
    function getReserves() external view returns (uint112 reserve0, uint112 reserve1, uint32 timestamp);
}

/// @title Executor: runs one liquidation program atomically, or leaves no trace
/// @notice Knows no protocol and no venue. An operator gives it a program; it runs the program, measures what the
/// balance of one token grew by, and reverts unless that reaches the floor it was given. Flash loans and swaps call
/// back into `fallback`, which serves whoever is expected at that moment, once, with exactly the inner program the
/// operator sent along, and nobody else.
///
/// The program is a byte string, big-endian (keeper/program.py writes the same):
///
///     program  step*
///     step     kind:1  length:3  body:length
///     call     (kind 1)  target:20  sender:20  [word:1  inner hash:32  answer length:2  answer]  patches:1  patch*  data
///              the bracket is there when `sender`, who may call back, is not zero
///     patch    offset:3  amount; at offset 0xffffff the amount is the native coin sent along
///     approve  (kind 2)  token:20  spender:20  amount
///     transfer (kind 3)  token:20  to:20  amount
///     item     (kind 4)  target:20  index:1  minimum:32  maximum:32  token:20  growth:32  length:2  data  program
///              a guard as in `Guard`, and a program that is left out when it does not hold; else the balance of `token`
///              must have grown by `growth` when it has run
///     keep     (kind 5)  key:32  word:1    remembers a word of the answer of the call that is the step before
///     amount   source:1  token:20  index:1  value:32
///              the top bit of `source` negates the number (two's complement)
///
/// Trust: the owner is trusted with everything; an operator with what the executor holds *during* an execution and
/// with anything left in it (it is not a vault: gains leave at the end of every execution), but not with the
/// beneficiary, the operators or the ownership. Nobody should ever approve this contract: a program may call any
/// `transferFrom`. There is no delegatecall, and no call into this contract itself.
///
/// Storage: slot 0 owner (bytes 0–19) and paused (byte 20); slot 1 pending owner; slot 2 beneficiary; slot 3 operators
/// (mapping). There are no immutables, so the runtime code is the same wherever it is deployed.
/// Transient storage: see LOCK, APPROVALS, `_expect` and `_keptAt`; all of it is void outside an execution.
contract Executor {
    /// @notice What an execution must achieve and where the result goes.
    /// @param id echoed in `Executed`
    /// @param profitToken the token the gain is measured in
    /// @param minGain least growth of the balance of `profitToken`, after the coinbase payment, in base units
    /// @param coinbaseBps share of the measured gain paid to block.coinbase; only when `profitToken` is `wrappedNative`
    /// @param wrappedNative WETH
    /// @param deadline last block timestamp at which this may run
    /// @param sweep other tokens whose whole balance goes to the beneficiary afterwards
    struct Settlement {
        bytes32 id;
        address profitToken;
        uint256 minGain;
        uint256 coinbaseBps;
        address wrappedNative;
        uint256 deadline;
        address[] sweep;
    }

    /// @notice A view made before anything else: word `index` of its answer must lie in [minimum, maximum].
    struct Guard {
        address target;
        uint256 index;
        uint256 minimum;
        uint256 maximum;
        bytes data;
    }

    /// @notice An execution ended well. `gain` went to the beneficiary, `coinbasePaid` (wei) to the block's producer.
    event Executed(bytes32 indexed id, address indexed profitToken, uint256 gain, uint256 coinbasePaid);
    /// @notice `pendingOwner` was offered the ownership.
    event OwnershipTransferStarted(address indexed owner, address indexed pendingOwner);
    /// @notice `owner` has accepted the ownership.
    event OwnershipTransferred(address indexed previousOwner, address indexed owner);
    /// @notice `operator` may execute from now on, or no longer.
    event OperatorSet(address indexed operator, bool allowed);
    /// @notice Gains go to `beneficiary` from now on.
    event BeneficiarySet(address indexed beneficiary);
    /// @notice Executions were stopped.
    event Paused(address indexed by);
    /// @notice Executions are allowed again.
    event Unpaused(address indexed by);
    /// @notice The owner took out tokens, or native coin (`token` zero).
    event Rescued(address indexed token, address indexed to, uint256 amount);

    error NotOwner();
    error NotPendingOwner();
    error NotOperator();
    error ZeroAddress();
    error ExecutionPaused();
    error Reentered();
    error Expired();
    /// @notice A guard says that there is nothing (more) to do.
    error Gone();
    error GainTooLow(uint256 gain, uint256 minGain);
    error BadSettlement();
    error CoinbaseRefused();
    error ApprovalStands(address token, address spender);
    error RescueFailed();
    error OutsideExecution();
    error UnexpectedCallback(address sender);
    error AlteredProgram();
    /// @notice Step `index` of the program that ran in this call failed for `reason`, itself an encoded error. For a
    /// step of an item, the item's own place, counted from one, stands above the lowest 16 bits.
    error StepFailed(uint256 index, bytes reason);
    // Reasons of StepFailed that are the executor's own.
    error BadProgram();
    error SelfCall();
    error NoCode(address target);
    error CallbackMissing(address sender);
    error BalanceTooLow(address token, uint256 balance, uint256 keep);
    error NoSuchWord(uint256 index);
    error TokenRefused(address token, bytes answer);
    /// @notice The program of an item has run and brought less than it had to.
    error GrowthTooLow(uint256 growth, uint256 minimum);

    uint256 private constant CALL = 1;
    uint256 private constant APPROVE = 2;
    uint256 private constant TRANSFER = 3;
    uint256 private constant ITEM = 4;
    uint256 private constant KEEP = 5;

    uint256 private constant LITERAL = 0;
    uint256 private constant BALANCE = 1;
    uint256 private constant WORD = 2;
    uint256 private constant V2_OUT = 3;
    uint256 private constant V2_IN = 4;
    uint256 private constant KEPT = 5;

    uint256 private constant NEGATIVE = 0x80;

    uint256 private constant AMOUNT_BYTES = 54;
    uint256 private constant PATCH_BYTES = 57;
    uint256 private constant KEEP_BYTES = 33;
    uint256 private constant ITEM_BYTES = 139;
    uint256 private constant AS_VALUE = 0xffffff;
    uint256 private constant BPS = 10_000;

    /// @dev Transient slot: 0 outside an execution, else 1 + the number of callbacks expected or being served.
    uint256 private constant LOCK = 0;
    /// @dev Transient slot: how many approvals were given; the n-th (from 0) is at APPROVALS + 1 + 2n: token, spender.
    uint256 private constant APPROVALS = 1 << 128;

    /// @notice Who may do everything.
    address public owner;
    /// @notice While true nobody executes.
    bool public paused;
    /// @notice Who was offered the ownership and has not accepted it yet.
    address public pendingOwner;
    /// @notice Who receives every gain and every leftover.
    address public beneficiary;
    /// @notice Who may execute and pause, besides the owner.
    mapping(address => bool) public operators;

    modifier onlyOwner() {
        if (msg.sender != owner) revert NotOwner();
        _;
    }

    /// @param owner_ may do everything
    /// @param operator first address that may execute; zero for none
    /// @param beneficiary_ receives every gain; zero for the owner
    constructor(address owner_, address operator, address beneficiary_) {
        if (owner_ == address(0)) revert ZeroAddress();
        if (beneficiary_ == address(0)) beneficiary_ = owner_;
        owner = owner_;
        beneficiary = beneficiary_;
        emit OwnershipTransferred(address(0), owner_);
        emit BeneficiarySet(beneficiary_);
        if (operator != address(0)) {
            operators[operator] = true;
            emit OperatorSet(operator, true);
        }
    }

    // ------------------------------------------------------------------------------------------------ execution

    /// @notice Check the guards, run the program, take back every approval it gave, pay the coinbase its share, and
    /// send the gain and the sweep tokens to the beneficiary.
    /// @return gain base units of the profit token, after the coinbase payment
    function execute(Settlement calldata settlement, Guard[] calldata guards, bytes calldata program)
        external
        returns (uint256 gain)
    {
        if (msg.sender != owner && !operators[msg.sender]) revert NotOperator();
        if (paused) revert ExecutionPaused();
        if (_tload(LOCK) != 0) revert Reentered();
        if (block.timestamp > settlement.deadline) revert Expired();
        for (uint256 i; i < guards.length; ++i) {
            Guard calldata guard = guards[i];
            if (!_holds(guard.target, guard.index, guard.minimum, guard.maximum, guard.data)) revert Gone();
        }

        _tstore(LOCK, 1);
        uint256 start = IERC20(settlement.profitToken).balanceOf(address(this));
        _run(program, 0);
        _revokeApprovals();
        gain = _settle(settlement, start);
        _tstore(LOCK, 0);
    }

    /// @notice Every callback of every lender and pool. Accepts only the sender expected now, once, carrying the inner
    /// program the operator sent, and answers what the operator said.
    fallback(bytes calldata) external returns (bytes memory answer) {
        uint256 frames = _tload(LOCK);
        if (frames < 2) revert UnexpectedCallback(msg.sender);
        uint256 slot = (frames - 1) << 16;
        uint256 expected = _tload(slot);
        if (msg.sender != address(uint160(expected))) revert UnexpectedCallback(msg.sender);
        _tstore(slot, 0);

        bytes calldata program = _argument(expected >> 160);
        if (keccak256(program) != bytes32(_tload(slot + 1))) revert AlteredProgram();
        uint256 length = _tload(slot + 2);
        answer = new bytes(length);
        for (uint256 i; i < length; i += 32) {
            uint256 part = _tload(slot + 3 + i / 32);
            // Memory of `bytes` is padded to whole words, so the last one may be written whole.
            assembly ("memory-safe") {
                mstore(add(add(answer, 32), i), part)
            }
        }
        _run(program, 0);
    }

    /// @notice Native coin comes only from unwrapping inside an execution.
    receive() external payable {
        if (_tload(LOCK) == 0) revert OutsideExecution();
    }

    // ------------------------------------------------------------------------------------------- administration

    /// @notice Offer the ownership to `newOwner`, who must accept it; zero withdraws the offer.
    function transferOwnership(address newOwner) external onlyOwner {
        pendingOwner = newOwner;
        emit OwnershipTransferStarted(owner, newOwner);
    }

    /// @notice Take the offered ownership.
    function acceptOwnership() external {
        if (msg.sender != pendingOwner) revert NotPendingOwner();
        emit OwnershipTransferred(owner, msg.sender);
        owner = msg.sender;
        pendingOwner = address(0);
    }

    /// @notice Allow or forbid `operator` to execute and to pause.
    function setOperator(address operator, bool allowed) external onlyOwner {
        operators[operator] = allowed;
        emit OperatorSet(operator, allowed);
    }

    /// @notice Name who receives every gain from now on.
    function setBeneficiary(address newBeneficiary) external onlyOwner {
        if (newBeneficiary == address(0)) revert ZeroAddress();
        beneficiary = newBeneficiary;
        emit BeneficiarySet(newBeneficiary);
    }

    /// @notice Stop every execution; the owner or any operator may.
    function pause() external {
        if (msg.sender != owner && !operators[msg.sender]) revert NotOperator();
        paused = true;
        emit Paused(msg.sender);
    }

    /// @notice Allow executions again.
    function unpause() external onlyOwner {
        paused = false;
        emit Unpaused(msg.sender);
    }

    /// @notice Send `amount` of `token`, or of the native coin when `token` is zero, to `to`.
    function rescue(address token, uint256 amount, address to) external onlyOwner {
        if (to == address(0)) revert ZeroAddress();
        bool ok;
        if (token == address(0)) (ok,) = to.call{value: amount}("");
        else ok = _tokenCall(token, abi.encodeCall(IERC20.transfer, (to, amount)));
        if (!ok) revert RescueFailed();
        emit Rescued(token, to, amount);
    }

    // -------------------------------------------------------------------------------------- before and after

    /// @dev A view that fails or answers too little vouches for nothing.
    function _holds(address target, uint256 index, uint256 minimum, uint256 maximum, bytes calldata data)
        private
        view
        returns (bool)
    {
        (bool ok, bytes memory answer) = target.staticcall(data);
        if (!ok || index >= answer.length / 32) return false;
        uint256 found;
        assembly ("memory-safe") {
            found := mload(add(add(answer, 32), mul(index, 32)))
        }
        return found >= minimum && found <= maximum;
    }

    /// @dev Whatever the program did, no allowance given by an approve step outlives the execution.
    function _revokeApprovals() private {
        uint256 count = _tload(APPROVALS);
        if (count == 0) return;
        for (uint256 i; i < count; ++i) {
            address token = address(uint160(_tload(APPROVALS + 1 + 2 * i)));
            address spender = address(uint160(_tload(APPROVALS + 2 + 2 * i)));
            if (IERC20(token).allowance(address(this), spender) == 0) continue;
            bool ok = _tokenCall(token, abi.encodeCall(IERC20.approve, (spender, 0)));
            if (!ok || IERC20(token).allowance(address(this), spender) != 0) revert ApprovalStands(token, spender);
        }
        _tstore(APPROVALS, 0);
    }

    function _settle(Settlement calldata settlement, uint256 start) private returns (uint256 gain) {
        address profitToken = settlement.profitToken;
        uint256 end = IERC20(profitToken).balanceOf(address(this));
        if (end < start) revert GainTooLow(0, settlement.minGain);
        gain = end - start;

        uint256 paid;
        if (settlement.coinbaseBps != 0) {
            if (profitToken != settlement.wrappedNative || settlement.coinbaseBps > BPS) revert BadSettlement();
            paid = gain * settlement.coinbaseBps / BPS;
            gain -= paid;
        }
        if (gain < settlement.minGain) revert GainTooLow(gain, settlement.minGain);
        if (paid != 0) {
            IWrappedNative(profitToken).withdraw(paid);
            (bool ok,) = block.coinbase.call{value: paid}("");
            if (!ok) revert CoinbaseRefused();
        }

        address to = beneficiary;
        if (gain != 0) _send(profitToken, to, gain);
        for (uint256 i; i < settlement.sweep.length; ++i) {
            address token = settlement.sweep[i];
            if (token == profitToken) revert BadSettlement();
            uint256 left = IERC20(token).balanceOf(address(this));
            if (left != 0) _send(token, to, left);
        }
        emit Executed(settlement.id, profitToken, gain, paid);
    }

    function _send(address token, address to, uint256 amount) private {
        if (!_tokenCall(token, abi.encodeCall(IERC20.transfer, (to, amount)))) {
            revert TokenRefused(token, _returned());
        }
    }

    // ---------------------------------------------------------------------------------------------- the language

    /// @dev `index` is what the first step is called when it fails.
    function _run(bytes calldata program, uint256 index) private {
        uint256 at;
        for (; at < program.length; ++index) {
            uint256 head = _word(program, at);
            uint256 size = uint24(head >> 224);
            at += 4;
            if (at + size > program.length) _fail(index, abi.encodeWithSelector(BadProgram.selector));
            uint256 free = _freeMemory();
            _step(index, head >> 248, program[at:at + size]);
            // What a step put into memory is dead after it.
            assembly ("memory-safe") {
                mstore(0x40, free)
            }
            at += size;
        }
    }

    function _step(uint256 index, uint256 kind, bytes calldata body) private {
        if (kind == KEEP) return _keep(index, body);
        address first = _address(body, 0);
        if (first == address(this)) _fail(index, abi.encodeWithSelector(SelfCall.selector));
        if (first.code.length == 0) _fail(index, abi.encodeWithSelector(NoCode.selector, first));
        if (kind == CALL) {
            _call(index, first, body);
        } else if (kind == TRANSFER || kind == APPROVE) {
            if (body.length != 40 + AMOUNT_BYTES) _fail(index, abi.encodeWithSelector(BadProgram.selector));
            address second = _address(body, 20);
            uint256 amount = _amount(index, body, 40);
            bool ok = kind == TRANSFER
                ? _tokenCall(first, abi.encodeCall(IERC20.transfer, (second, amount)))
                : _approve(first, second, amount);
            if (!ok) _fail(index, abi.encodeWithSelector(TokenRefused.selector, first, _returned()));
        } else if (kind == ITEM) {
            _item(index, first, body);
        } else {
            _fail(index, abi.encodeWithSelector(BadProgram.selector));
        }
    }

    /// @dev Runs in this very frame: a program inside an item may do what any program may, and no more.
    function _item(uint256 index, address target, bytes calldata body) private {
        uint256 length = uint16(_word(body, 137) >> 240);
        if (ITEM_BYTES + length > body.length) _fail(index, abi.encodeWithSelector(BadProgram.selector));
        address token = _address(body, 85);
        if (token == address(this)) _fail(index, abi.encodeWithSelector(SelfCall.selector));
        if (token.code.length == 0) _fail(index, abi.encodeWithSelector(NoCode.selector, token));
        bytes calldata data = body[ITEM_BYTES:ITEM_BYTES + length];
        if (!_holds(target, _word(body, 20) >> 248, _word(body, 21), _word(body, 53), data)) return;

        uint256 start = IERC20(token).balanceOf(address(this));
        _run(body[ITEM_BYTES + length:], (index + 1) << 16);
        uint256 end = IERC20(token).balanceOf(address(this));
        uint256 growth = end < start ? 0 : end - start;
        uint256 minimum = _word(body, 105);
        if (growth < minimum) _fail(index, abi.encodeWithSelector(GrowthTooLow.selector, growth, minimum));
    }

    function _call(uint256 index, address target, bytes calldata body) private {
        address sender = _address(body, 20);
        uint256 at = 40;
        if (sender != address(0)) at = 75 + uint16(_word(body, 73) >> 240);
        uint256 patches = _word(body, at) >> 248;
        at += 1;
        if (at + patches * PATCH_BYTES > body.length) _fail(index, abi.encodeWithSelector(BadProgram.selector));

        bytes memory data = body[at + patches * PATCH_BYTES:];
        uint256 value;
        for (uint256 i; i < patches; ++i) {
            uint256 offset = _word(body, at) >> 232;
            uint256 amount = _amount(index, body, at + 3);
            at += PATCH_BYTES;
            if (offset == AS_VALUE) {
                value = amount;
                continue;
            }
            if (offset + 32 > data.length) _fail(index, abi.encodeWithSelector(BadProgram.selector));
            assembly ("memory-safe") {
                mstore(add(add(data, 32), offset), amount)
            }
        }

        if (sender != address(0)) _expect(sender, body);
        bool ok;
        // In assembly because a high-level call would copy the answer, of which a keep step reads one word at most.
        assembly ("memory-safe") {
            ok := call(gas(), target, value, add(data, 32), mload(data), 0, 0)
        }
        if (!ok) _fail(index, _returned());
        if (sender != address(0)) _unexpect(index, sender);
    }

    /// @dev The answer is still in the return buffer: nothing is called between two steps.
    function _keep(uint256 index, bytes calldata body) private {
        if (body.length != KEEP_BYTES) _fail(index, abi.encodeWithSelector(BadProgram.selector));
        uint256 which = _word(body, 32) >> 248;
        uint256 slot = _keptAt(_word(body, 0));
        bool there;
        uint256 found;
        assembly ("memory-safe") {
            there := iszero(lt(returndatasize(), mul(add(which, 1), 32)))
            if there {
                returndatacopy(0, mul(which, 32), 32)
                found := mload(0)
            }
        }
        if (!there) _fail(index, abi.encodeWithSelector(NoSuchWord.selector, which));
        _tstore(slot, found);
    }

    /// @dev Hashed, so that no key can reach another transient slot.
    function _keptAt(uint256 key) private pure returns (uint256) {
        return uint256(keccak256(abi.encode(KEPT, key)));
    }

    /// @dev Frame n (from 1) of the stack of expectations is at n << 16: sender and argument position (zero once
    /// served), hash of the inner program, length of the answer, the answer.
    function _expect(address sender, bytes calldata body) private {
        uint256 frames = _tload(LOCK);
        uint256 slot = frames << 16;
        uint256 length = uint16(_word(body, 73) >> 240);
        _tstore(LOCK, frames + 1);
        _tstore(slot, uint256(uint160(sender)) | (_word(body, 40) >> 248) << 160);
        _tstore(slot + 1, _word(body, 41));
        _tstore(slot + 2, length);
        for (uint256 i; i < length; i += 32) _tstore(slot + 3 + i / 32, _word(body, 75 + i));
    }

    function _unexpect(uint256 index, address sender) private {
        uint256 frames = _tload(LOCK) - 1;
        if (_tload(frames << 16) != 0) _fail(index, abi.encodeWithSelector(CallbackMissing.selector, sender));
        _tstore(LOCK, frames);
    }

    function _approve(address token, address spender, uint256 amount) private returns (bool) {
        uint256 count = _tload(APPROVALS);
        _tstore(APPROVALS, count + 1);
        _tstore(APPROVALS + 1 + 2 * count, uint160(token));
        _tstore(APPROVALS + 2 + 2 * count, uint160(spender));
        if (_tokenCall(token, abi.encodeCall(IERC20.approve, (spender, amount)))) return true;
        // Tokens like USDT insist on passing through zero.
        return _tokenCall(token, abi.encodeCall(IERC20.approve, (spender, 0)))
            && _tokenCall(token, abi.encodeCall(IERC20.approve, (spender, amount)));
    }

    // -------------------------------------------------------------------------------------------------- amounts

    function _amount(uint256 index, bytes calldata body, uint256 at) private view returns (uint256 amount) {
        uint256 source = _word(body, at) >> 248;
        amount = _magnitude(index, source & ~NEGATIVE, body, at);
        if (source & NEGATIVE != 0) {
            unchecked {
                amount = 0 - amount;
            }
        }
    }

    function _magnitude(uint256 index, uint256 source, bytes calldata body, uint256 at)
        private
        view
        returns (uint256)
    {
        address token = _address(body, at + 1);
        uint256 which = _word(body, at + 21) >> 248;
        uint256 value = _word(body, at + 22);
        if (source == LITERAL) return value;
        if (source == BALANCE) {
            uint256 held = IERC20(token).balanceOf(address(this));
            if (held < value) _fail(index, abi.encodeWithSelector(BalanceTooLow.selector, token, held, value));
            return held - value;
        }
        if (source == WORD) return _callbackWord(index, which) + value;
        if (source == KEPT) return _kept(which, value);
        if (source == V2_OUT) return _pairOutput(token, which == 0, value);
        if (source != V2_IN) _fail(index, abi.encodeWithSelector(BadProgram.selector));
        return _pairInput(token, which == 0, value >> 128, uint128(value));
    }

    /// @dev |word `which`| of the arguments of the callback being served.
    function _callbackWord(uint256 index, uint256 which) private view returns (uint256) {
        uint256 end = 36 + 32 * which;
        if (_tload(LOCK) < 2 || end > msg.data.length) _fail(index, abi.encodeWithSelector(NoSuchWord.selector, which));
        int256 found = int256(_word(msg.data, end - 32));
        unchecked {
            return found < 0 ? uint256(-found) : uint256(found);
        }
    }

    /// @dev What was kept under `key`: all of it (`part` 0), or |its upper (1) or lower (2) half| read as an int128.
    function _kept(uint256 part, uint256 key) private view returns (uint256) {
        uint256 found = _tload(_keptAt(key));
        if (part == 0) return found;
        int256 half = part == 1 ? int128(int256(found) >> 128) : int128(int256(found));
        return half < 0 ? uint256(-half) : uint256(half);
    }

    /// @dev UniswapV2Library.getAmountOut with the fee in bps, for what already lies in the pair beyond its reserve.
    function _pairOutput(address pair, bool zeroIn, uint256 fee) private view returns (uint256) {
        (uint256 reserveIn, uint256 reserveOut) = _reserves(pair, zeroIn);
        address tokenIn = zeroIn ? IPairV2(pair).token0() : IPairV2(pair).token1();
        uint256 input = (IERC20(tokenIn).balanceOf(pair) - reserveIn) * (BPS - fee);
        return input * reserveOut / (reserveIn * BPS + input);
    }

    /// @dev UniswapV2Library.getAmountIn with the fee in bps.
    function _pairInput(address pair, bool zeroIn, uint256 fee, uint256 output) private view returns (uint256) {
        (uint256 reserveIn, uint256 reserveOut) = _reserves(pair, zeroIn);
        return reserveIn * output * BPS / ((reserveOut - output) * (BPS - fee)) + 1;
    }

    function _reserves(address pair, bool zeroIn) private view returns (uint256, uint256) {
        (uint256 reserve0, uint256 reserve1,) = IPairV2(pair).getReserves();
        return zeroIn ? (reserve0, reserve1) : (reserve1, reserve0);
    }

    // -------------------------------------------------------------------------------------------------- plumbing

    /// @dev True when the token did what was asked: it has code, did not revert, and answered nothing or `true`.
    function _tokenCall(address token, bytes memory data) private returns (bool ok) {
        assembly ("memory-safe") {
            ok := call(gas(), token, 0, add(data, 32), mload(data), 0, 32)
            switch returndatasize()
            case 0 { ok := and(ok, gt(extcodesize(token), 0)) }
            default { ok := and(ok, and(gt(returndatasize(), 31), eq(mload(0), 1))) }
        }
    }

    /// @dev The answer, or the revert data, of the last call made.
    function _returned() private pure returns (bytes memory answer) {
        assembly ("memory-safe") {
            answer := mload(0x40)
            mstore(answer, returndatasize())
            returndatacopy(add(answer, 32), 0, returndatasize())
            mstore(0x40, and(add(add(answer, returndatasize()), 63), not(31)))
        }
    }

    function _fail(uint256 index, bytes memory reason) private pure {
        revert StepFailed(index, reason);
    }

    /// @dev The ``bytes`` argument at position `which` of the callback being served, wherever its sender put it.
    function _argument(uint256 which) private pure returns (bytes calldata) {
        uint256 total = msg.data.length;
        uint256 at = 4 + 32 * which;
        if (at + 32 > total) revert AlteredProgram();
        uint256 offset = _word(msg.data, at);
        if (offset > total || offset + 36 > total) revert AlteredProgram();
        uint256 length = _word(msg.data, offset + 4);
        if (length > total || offset + 36 + length > total) revert AlteredProgram();
        return msg.data[offset + 36:offset + 36 + length];
    }

    function _address(bytes calldata data, uint256 at) private pure returns (address) {
        return address(uint160(_word(data, at) >> 96));
    }

    /// @dev 32 bytes from `at` on. Past the end it reads what follows in the calldata, which callers bound.
    function _word(bytes calldata data, uint256 at) private pure returns (uint256 word) {
        assembly ("memory-safe") {
            word := calldataload(add(data.offset, at))
        }
    }

    function _freeMemory() private pure returns (uint256 pointer) {
        assembly ("memory-safe") {
            pointer := mload(0x40)
        }
    }

    function _tload(uint256 slot) private view returns (uint256 value) {
        assembly ("memory-safe") {
            value := tload(slot)
        }
    }

    function _tstore(uint256 slot, uint256 value) private {
        assembly ("memory-safe") {
            tstore(slot, value)
        }
    }
}
