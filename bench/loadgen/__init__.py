"""The load generator: one process, one thread, raw sockets on epoll, every answer checked.

Started as ``python -m bench.loadgen SPEC.json`` by :func:`bench.loadgen.remote.run_load`, so that what it
costs is not counted to anybody else.  :mod:`bench.loadgen.engine` has the loops.
"""
