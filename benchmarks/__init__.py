"""Side-by-side measurements: each a script that prints one table.

`speed` is what `make bench` runs; `quality` and `edits` need pictures of one's own (`make quality DATA=...`).
"""
