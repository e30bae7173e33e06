"""A Django application with tasks for the tests of jobs, and the worker process that runs them."""
