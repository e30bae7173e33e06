"""An app whose migrations are slow, not idempotent or not atomic, for tests that run many `migrate` at once."""
