"""The decision bench: the same simulated streams through Understudy's rules and others'; ``make
bench-decisions``."""
