"""Conversations that nobody had, to look at and to measure with: `manage.py seed_demo`.

texts    what is said
rows     users, sessions and messages, the same for the same numbers
"""
