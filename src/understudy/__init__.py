"""Understudy: the SageMaker inference and model-testing service, self-hosted.

Start reading at :mod:`understudy.app`.
"""

__version__ = "0.1.0"
