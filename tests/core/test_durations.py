from core.durations import format_duration


def test_durations() -> None:
    seconds = (-1, 0, 59.9, 60, 190, 3661, 7500, 86_400, 90_061, 273_600)
    assert [format_duration(number) for number in seconds] == [
        "0 s", "0 s", "59 s", "1 min", "3 min 10 s", "1 h 1 min", "2 h 5 min", "1 d", "1 d 1 h", "3 d 4 h",
    ]  # fmt: skip
