"""Django's PostgreSQL backend with time limits and a circuit breaker: the ENGINE of the settings.

    base             the backend: metrics, health checks, the circuit breaker before each use of a connection
    connection       psycopg connections with a time limit for every call
    time_limit       the time limit of the current request
    servers          URLs with several hosts, and names with several addresses
    circuit_breaker  rejects calls while PostgreSQL does not respond
    probe            checks whether PostgreSQL can be read and written
    migration_*      locks of `manage.py migrate`
"""
