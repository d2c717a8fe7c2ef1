"""Understudy measured against its peers: ``python -m bench`` (``make bench``), ``python -m bench.soak``.

A client like any other: it starts servers as subprocesses and talks HTTP to them.  Start reading at
:mod:`bench.run`; the load generator is :mod:`bench.loadgen`, the contestants are in ``bench/peers``.
"""
