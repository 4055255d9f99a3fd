"""Known values of the integer arithmetic."""

from __future__ import annotations

import pytest

from keeper.maths import integer, interest, percentage, wad_ray

pytestmark = pytest.mark.unit

RAY = wad_ray.RAY


@pytest.mark.parametrize(
    ("function", "a", "b", "expected"),
    [
        (percentage.percent_mul_half_up, 3, 5_000, 2),
        (percentage.percent_mul_down, 3, 5_000, 1),
        (percentage.percent_mul_up, 3, 5_000, 2),
        (percentage.percent_div_half_up, 1, 10_500, 1),
        (percentage.percent_div_down, 1, 10_500, 0),
        (percentage.percent_div_up, 1, 10_500, 1),
        (wad_ray.ray_mul_half_up, 1, RAY // 2, 1),
        (wad_ray.ray_mul_half_up, 1, RAY // 2 - 1, 0),
        (wad_ray.ray_mul_down, 1, RAY - 1, 0),
        (wad_ray.ray_mul_up, 1, 1, 1),
        (wad_ray.ray_mul_up, 0, RAY, 0),
        (wad_ray.ray_div_half_up, 1, 2 * RAY, 1),
        (wad_ray.ray_div_half_up, 1, 2 * RAY + 1, 0),
        (wad_ray.ray_div_down, 3, 2 * RAY, 1),
        (wad_ray.ray_div_up, 3, 2 * RAY, 2),
        (wad_ray.wad_div_half_up, 1, 3, 333_333_333_333_333_333),
        (wad_ray.wad_div_half_up, 2, 3, 666_666_666_666_666_667),
    ],
)
def test_rounding_goes_where_the_name_says(function: object, a: int, b: int, expected: int) -> None:
    """One value per function on which the three roundings differ."""
    assert callable(function)
    assert function(a, b) == expected


def test_a_zero_divisor_raises() -> None:
    """Division by zero is an error, as it is a revert in the contracts."""
    for function in (integer.mul_div_down, integer.mul_div_up, integer.mul_div_half_up):
        with pytest.raises(ZeroDivisionError):
            function(1, 1, 0)


def test_interest_over_a_year() -> None:
    """At 10 % a year: linear is 10 %; three binomial or Taylor terms are just below e^0.1."""
    rate, year = RAY // 10, interest.SECONDS_PER_YEAR
    assert interest.linear_interest(rate, year) == RAY + rate
    assert interest.compounded_interest_taylor(rate, year) == 1_105_166_666_666_666_666_666_666_667
    # The binomial's yearly powers are divided early and lose digits.
    assert 1_105_160_000 < interest.compounded_interest_binomial(rate, year) // 10**18 < 1_105_170_000


def test_no_time_no_interest() -> None:
    """Nothing accrues in no time, and linear interest is all there is in one second."""
    for function in (interest.compounded_interest_binomial, interest.compounded_interest_taylor):
        assert function(RAY, 0) == RAY
        assert function(0, 10**6) == RAY
    assert interest.compounded_interest_binomial(RAY, 1) == interest.linear_interest(RAY, 1)
