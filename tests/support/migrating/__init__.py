"""An app whose migrations are slow, once only, or not in a transaction: what starting many `migrate` must survive."""
