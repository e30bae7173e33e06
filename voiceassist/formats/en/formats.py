"""ISO 8601, as in the logs, to the second. TIME_ZONE in the settings makes all times UTC."""

DATE_FORMAT = "Y-m-d"
DATETIME_FORMAT = r"Y-m-d H:i:s \U\T\C"  # where Django shows a field; the pages use `core.admin.display.time_element`
