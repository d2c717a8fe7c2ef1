"""S3's operations over the ports Buckets and Objects.

Main value: :data:`OPERATIONS`, each guarded by :func:`guard.guarded`.  Versioning, ACLs, policies, object
lock and customers' keys are refused, never ignored, where ignoring them would lie about the data.
Source: S3's API reference and botocore's ``s3`` service model.
"""

from __future__ import annotations

from understudy.operations.s3 import buckets, completing, copying, listing, multipart, objects, tagging
from understudy.operations.s3.guard import guarded
from understudy.operations.services import Operation

_MODULES = (buckets, objects, copying, listing, multipart, completing, tagging)

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("s3", name): guarded(operation) for module in _MODULES for name, operation in module.OPERATIONS.items()
}
