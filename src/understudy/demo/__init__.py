"""The demo: two real models, one endpoint, an A/B test, told as the boto3 calls it makes.

A client like any other: it talks to a server over HTTP only.
Main function: :func:`understudy.demo.walk.walk`.
"""
