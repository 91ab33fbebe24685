import math

import pytest

from lasttoken import wording


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (wording.score(0.8344), ".834"),
        (wording.score(-0.021), "\u2212.021"),
        (wording.score(1.25), "1.250"),
        (wording.score(math.nan), "–"),
        (wording.brief(0.834), ".83"),
        (wording.brief(0.0), ".00"),
        (wording.brief(0.999), "1.00"),
        (wording.signed(0.0211), "+.021"),
        (wording.signed(-0.0211), "\u2212.021"),
        (wording.signed(0.0001), ".000"),
        (wording.shown_span(-0.012, 0.05), "[\u2212.012, .050]"),
        (wording.shown_span(math.nan, 1.0), ""),
        (wording.shown_p(0.0004), "< .001"),
        (wording.shown_p(0.032), ".032"),
        (wording.shown_p(0.61), ".61"),
        (wording.shown_p(1.0), "1.00"),
        (wording.percent(0.1824), "18.2 %"),
        (wording.size(12_195_848), "12.2 M"),
        (wording.size(7_248_000_000), "7.25 B"),
        (wording.size(999_500), "1.00 M"),
        (wording.size(812), "812"),
        (wording.size(0), "0"),
        (wording.data_size(1_420_000_000), "1.42 GB"),
        (wording.data_size(655_488), "655 kB"),
        (wording.data_size(math.nan), "–"),
        (wording.rate(83.13), "83.1"),
        (wording.rate(0.4512), "0.451"),
        (wording.rate(12_345.0), "12,300"),
        (wording.rate(999.7), "1,000"),
        (wording.duration(0.842), "0.84 s"),
        (wording.duration(59.9), "59.9 s"),
        (wording.duration(59.97), "1 min 0 s"),
        (wording.duration(250.4), "4 min 10 s"),
        (wording.duration(3599.7), "1 h 0 min"),
        (wording.duration(7530.0), "2 h 6 min"),
    ],
)
def test_numbers_as_shown(shown: str, expected: str) -> None:
    assert shown == expected
