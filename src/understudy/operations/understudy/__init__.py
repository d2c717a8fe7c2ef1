"""Understudy's own calls, what AWS has no operation for, one module per subject; ``registry`` lists them."""
