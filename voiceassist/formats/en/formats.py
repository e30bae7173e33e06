"""As logs and operators write them, to the second; always in UTC (see the settings)."""

DATE_FORMAT = "Y-m-d"
DATETIME_FORMAT = "Y-m-d H:i:s"
