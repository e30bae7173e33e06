"""The failover suite: `make failover`. It breaks a real PostgreSQL under load and counts what clients lost.

    cluster     a primary and a synchronous standby from the wheel, on loopback addresses of their own
    packets     drops a server's packets (root and iptables)
    routes      how our server reaches the primary: several hosts, HAProxy, PgBouncer before HAProxy, a name that moves
    faults      what breaks, and how it ends
    load        clients that append and retry until they are acknowledged; probers of /health and /ready
    verdict     what the surviving primary holds against what was acknowledged, and the measured times
    urls, settings    our server with three more views, for the load

`make test` does not collect this folder: a case takes 10 to 20 seconds, and all of them some minutes.
"""
