"""Inside the model's environment: the program that loads one model and answers for it.

Imports nothing of the rest of the project and nothing but the standard library when it is imported; a
model's own libraries come in lazily, in whatever version the model's environment holds. Only ``wire`` is
shared (the router speaks it too).
"""
