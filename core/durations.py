"""Durations in words, for the admin and the status page."""


def format_duration(seconds: float) -> str:
    """Return the two largest units: 4 s, 3 min 10 s, 2 h 5 min or 3 d 4 h."""
    whole = max(0, int(seconds))
    parts = ((whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s"))
    largest = next((position for position, (number, _) in enumerate(parts) if number), -1)
    return " ".join(f"{number} {unit}" for number, unit in parts[largest:][:2] if number) or "0 s"
