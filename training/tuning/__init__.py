"""Pivotal tuning: a generator is tuned to the pictures of one person."""
