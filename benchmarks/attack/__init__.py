"""Attacks on a running gateway, from strangers on loopback: `make attack`, or `python -m benchmarks.attack`.

`gateway` starts the gateway under attack, `watch` measures from another process how it does, `wire` and `pictures`
make what the attackers send. The attacks are in three modules, by what they are after: `building` (processor time and
memory for what is built from a request), `holding` (memory and places that somebody keeps), `rules` (keys, names,
logs, disks). All traffic goes to 127.0.0.1.
"""
