import time

from health.templatetags.times import utc_time


def test_time_has_its_date_unless_it_is_today() -> None:
    assert utc_time(0) == '<time datetime="1970-01-01T00:00:00+00:00">1970-01-01 00:00:00 UTC</time>'
    at_least_one_today = [utc_time(time.time()) for _ in range(2)]  # midnight may be between the two clocks
    assert any(len(text.split(">")[1]) == len("12:14:36 UTC</time") for text in at_least_one_today)
