"""Side-by-side measurements: each a script that prints one table.

`speed` is what `make bench` runs, and `scale` (`make scale`) measures large networks and 16 bits; `quality` and `edits`
need pictures of one's own (`make quality DATA=...`). `observing` (`make bench-observing`) is about
what it costs to be watched.
"""
