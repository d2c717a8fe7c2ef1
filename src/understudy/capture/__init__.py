"""Keeping requests and answers: records, the spool between router and controller, collecting, reading."""
