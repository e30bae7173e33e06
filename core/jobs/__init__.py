"""Run tasks in the background, at least once and with effects that are committed once.

A task is a function in `core.tasks` with `@task` of Django's Tasks API. `task.enqueue(…)` stores a `Job` in the
caller's transaction, and puts its id into Redis after the commit. `manage.py worker` runs jobs:

    backend.py    stores a job and its origin: who asked for it, and the trace id
    queue.py      the queue in Redis, with Dramatiq
    registry.py   finds a task by its name
    execution.py  claims a job in the database, runs it, and records the outcome
    progress.py   `batch()`: the transactions of a job
    schedule.py   tasks that run at fixed times, and ids that are put into Redis again
    worker.py     the process: threads, signals, metrics

PostgreSQL is the record and Redis only wakes a worker, so a lost queue loses no job. A worker holds a lease on the job
that it runs, and a batch commits only while it has that lease. So a job whose worker was killed or frozen continues on
another worker where it stopped, and no batch is applied twice.
"""
