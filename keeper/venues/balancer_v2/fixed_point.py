"""Powers in 18-decimal fixed point, digit for digit as ``LogExpMath.sol`` and ``FixedPoint.sol`` of Balancer V2.

Division truncates towards zero, as the contract's int256 does. The `up` of a power is the contract's own: the computed
value plus its largest error.
"""

from __future__ import annotations

from keeper.errors import BadData

ONE = 10**18
_ONE_20 = 10**20
_ONE_36 = 10**36
_LARGEST_EXPONENT = 130 * ONE
_SMALLEST_EXPONENT = -41 * ONE
_NEAR_ONE = (ONE - 10**17, ONE + 10**17)  # between these the logarithm is taken with 36 decimals
_POWER_ERROR = 10_000  # relative, in 1e-18

# e to the power of 128 and of 64 without decimals; then of 32, 16, … 1/16 with 20 decimals.
_X0, _A0 = 128 * ONE, 38877084059945950922200000000000000000000000000000000000
_X1, _A1 = 64 * ONE, 6235149080811616882910000000
_FINE = (
    (3200000000000000000000, 7896296018268069516100000000000000),
    (1600000000000000000000, 888611052050787263676000000),
    (800000000000000000000, 298095798704172827474000),
    (400000000000000000000, 5459815003314423907810),
    (200000000000000000000, 738905609893065022723),
    (100000000000000000000, 271828182845904523536),
    (50000000000000000000, 164872127070012814685),
    (25000000000000000000, 128402541668774148407),
    (12500000000000000000, 113314845306682631683),
    (6250000000000000000, 106449445891785942956),
)
_EXP_TERMS = range(2, 13)
_LN_TERMS = (3, 5, 7, 9, 11)
_LN_36_TERMS = (3, 5, 7, 9, 11, 13, 15)


def mul_down(a: int, b: int) -> int:
    """a·b, rounded down: ``FixedPoint.mulDown``."""
    return a * b // ONE


def mul_up(a: int, b: int) -> int:
    """a·b, rounded up: ``FixedPoint.mulUp``."""
    return -(-a * b // ONE)


def div_down(a: int, b: int) -> int:
    """a/b, rounded down: ``FixedPoint.divDown``."""
    return a * ONE // b


def div_up(a: int, b: int) -> int:
    """a/b, rounded up: ``FixedPoint.divUp``."""
    return -(-a * ONE // b)


def power_up(base: int, exponent: int, *, exact_small: bool) -> int:
    """An upper bound of base^exponent: ``FixedPoint.powUp``.

    With `exact_small`, as in pools of 2022 and later, the exponents 1, 2 and 4 are multiplied out. Raises BadData when
    the result is out of range, where the contract reverts.
    """
    if exact_small and exponent == ONE:
        return base
    if exact_small and exponent in (2 * ONE, 4 * ONE):
        square = mul_up(base, base)
        return square if exponent == 2 * ONE else mul_up(square, square)
    raw = power(base, exponent)
    return raw + mul_up(raw, _POWER_ERROR) + 1


def power(base: int, exponent: int) -> int:
    """base^exponent: ``LogExpMath.pow``; raises BadData where it reverts."""
    if exponent == 0:
        return ONE
    if base == 0:
        return 0
    if _NEAR_ONE[0] < base < _NEAR_ONE[1]:
        log = _ln_36(base)
        whole, rest = _quotient(log, ONE), _remainder(log, ONE)
        product = whole * exponent + _quotient(rest * exponent, ONE)
    else:
        product = _ln(base) * exponent
    product = _quotient(product, ONE)
    if not _SMALLEST_EXPONENT <= product <= _LARGEST_EXPONENT:
        raise BadData(f"{base} to the power of {exponent} (18 decimals) is out of range")
    return _exp(product)


def _exp(x: int) -> int:
    if x < 0:
        return ONE * ONE // _exp(-x)
    first = 1
    if x >= _X0:
        x, first = x - _X0, _A0
    elif x >= _X1:
        x, first = x - _X1, _A1
    x *= 100
    product = _ONE_20
    for bound, factor in _FINE[:8]:
        if x >= bound:
            x -= bound
            product = product * factor // _ONE_20
    total, term = _ONE_20 + x, x
    for number in _EXP_TERMS:
        term = term * x // _ONE_20 // number
        total += term
    return product * total // _ONE_20 * first // 100


def _ln(a: int) -> int:
    if a < ONE:
        return -_ln(ONE * ONE // a)
    total = 0
    if a >= _A0 * ONE:
        a, total = a // _A0, total + _X0
    if a >= _A1 * ONE:
        a, total = a // _A1, total + _X1
    total, a = total * 100, a * 100
    for bound, factor in _FINE:
        if a >= factor:
            a = a * _ONE_20 // factor
            total += bound
    z = (a - _ONE_20) * _ONE_20 // (a + _ONE_20)
    squared = z * z // _ONE_20
    series, term = z, z
    for number in _LN_TERMS:
        term = term * squared // _ONE_20
        series += term // number
    return (total + 2 * series) // 100


def _ln_36(x: int) -> int:
    x *= ONE
    z = _quotient((x - _ONE_36) * _ONE_36, x + _ONE_36)
    squared = z * z // _ONE_36
    series, term = z, z
    for number in _LN_36_TERMS:
        term = _quotient(term * squared, _ONE_36)
        series += _quotient(term, number)
    return 2 * series


def _quotient(a: int, b: int) -> int:
    return a // b if a >= 0 else -(-a // b)


def _remainder(a: int, b: int) -> int:
    return a % b if a >= 0 else -(-a % b)
