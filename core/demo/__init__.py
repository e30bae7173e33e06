"""Synthetic conversations for demonstrations and benchmarks, written by `manage.py seed_demo`.

vocabulary    the sentences
generator     users, sessions and messages; the same arguments generate the same rows
"""
