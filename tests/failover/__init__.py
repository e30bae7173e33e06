"""The failover suite: `make failover`. It breaks a real PostgreSQL under load and counts what clients lost.

    cluster         a primary and a synchronous standby from the wheel, each with its own loopback address
    packets         drops a server's packets (needs root and iptables)
    routes          how the application reaches the primary: several hosts, HAProxy, PgBouncer and HAProxy, a DNS name
    faults          what fails, and how the cluster recovers
    load            clients that append and retry until they are acknowledged; probes of /health and /ready
    verdict         compares acknowledged with stored messages, and measured times with the promised ones
    urls, settings  the application with three additional views, for the load

`make test` does not collect this folder, because a case takes 10 to 20 seconds and all cases take several minutes.
"""
