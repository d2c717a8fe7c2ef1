"""The loops: observe the stores and the runtime, decide in core, act, record.

Start reading at :mod:`understudy.control.endpoints`.
"""
