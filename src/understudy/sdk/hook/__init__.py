"""A folder for PYTHONPATH: what keeps the AWS calls of any Python process on this machine.

Its files are stdlib-only, run on Python 3.9 and later, and don't need Understudy installed.
"""
