"""Side-by-side measurements: each a script that prints one table.

`speed` is what `make bench` runs, `refine` (`make bench-refine`) compares refinements, `serving` (`make bench-serving`)
loads a gateway, `bulk` (`make bench-bulk`) edits a folder through one, `observing` (`make bench-observing`) is about
what it costs to be watched, `geodesics` about ways between sampled faces, `restoration` about faces of which little is
known, `pose` about heads that turn, and `scale` (`make scale`) measures large networks and 16 bits; `quality` and
`edits` need pictures of one's own (`make quality DATA=...`).
"""
