"""The face for boto3: one URL for every service, shapes from botocore's models.  Start at ``gateway``."""
