import math

import pytest

from lasttoken.report import units


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (units.score(0.8344), ".834"),
        (units.score(-0.021), "\u2212.021"),
        (units.score(1.25), "1.250"),
        (units.score(math.nan), "–"),
        (units.brief(0.834), ".83"),
        (units.brief(0.0), ".00"),
        (units.brief(0.999), "1.00"),
        (units.signed(0.0211), "+.021"),
        (units.signed(-0.0211), "\u2212.021"),
        (units.signed(0.0001), ".000"),
        (units.span(-0.012, 0.05), "[\u2212.012, .050]"),
        (units.span(math.nan, 1.0), ""),
        (units.p_value(0.0004), "< .001"),
        (units.p_value(0.032), ".032"),
        (units.p_value(0.61), ".61"),
        (units.p_value(1.0), "1.00"),
        (units.percent(0.1824), "18.2 %"),
        (units.size(12_195_848), "12.2 M"),
        (units.size(7_248_000_000), "7.25 B"),
        (units.size(999_500), "1.00 M"),
        (units.size(812), "812"),
        (units.size(0), "0"),
        (units.data_size(1_420_000_000), "1.42 GB"),
        (units.data_size(655_488), "655 kB"),
        (units.data_size(math.nan), "–"),
        (units.rate(83.13), "83.1"),
        (units.rate(0.4512), "0.451"),
        (units.rate(12_345.0), "12,300"),
        (units.rate(999.7), "1,000"),
        (units.duration(0.842), "0.84 s"),
        (units.duration(59.9), "59.9 s"),
        (units.duration(59.97), "1 min 0 s"),
        (units.duration(250.4), "4 min 10 s"),
        (units.duration(3599.7), "1 h 0 min"),
        (units.duration(7530.0), "2 h 6 min"),
    ],
)
def test_numbers_as_shown(shown: str, expected: str) -> None:
    assert shown == expected
