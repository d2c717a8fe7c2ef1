"""The services that share the one URL, with botocore's models of them, each loaded when first asked for.

Owns the lookups from wire names (target prefix, API version, path) to operations.  Main type:
:class:`Catalog`.  Source: botocore ``data/*/service-2.json.gz``.
"""

from __future__ import annotations

import threading
from pathlib import Path

import botocore
from botocore.loaders import Loader
from botocore.model import OperationModel, ServiceModel

# X-Amz-Target prefix -> botocore service name.
TARGETS = {
    "SageMaker": "sagemaker",
    "GraniteServiceVersion20100801": "cloudwatch",
    "Logs_20140328": "logs",
    "AnyScaleFrontendService": "application-autoscaling",
}
# Version of a query request -> botocore service name.
VERSIONS = {"2011-06-15": "sts", "2010-05-08": "iam", "2010-08-01": "cloudwatch"}
# Service -> the name its signatures are scoped to.
SIGNING_NAMES = {
    "sagemaker": "sagemaker",
    "sagemaker-runtime": "sagemaker",
    "cloudwatch": "monitoring",
    "logs": "logs",
    "application-autoscaling": "application-autoscaling",
    "sts": "sts",
    "iam": "iam",
    "s3": "s3",
}
SERVICE_OF_SIGNING_NAME = {
    name: service for service, name in SIGNING_NAMES.items() if name != "sagemaker"
} | {"sagemaker": "sagemaker"}
# Services with one endpoint for the world: clients sign for us-east-1 wherever they are.
GLOBAL_SERVICES = frozenset({"iam", "sts"})


class Catalog:
    """Service and operation models, loaded once each; safe to share between threads."""

    def __init__(self) -> None:
        data = Path(botocore.__file__).parent / "data"
        # Without the default search paths: a model in somebody's ~/.aws must not change the server.
        self._loader = Loader(extra_search_paths=[str(data)], include_default_search_paths=False)
        self._services: dict[str, ServiceModel] = {}
        self._operations: dict[tuple[str, str], OperationModel] = {}
        self._lock = threading.Lock()

    def service(self, name: str) -> ServiceModel:
        """Return a service's model (sagemaker's takes about 0.2 s the first time)."""
        model = self._services.get(name)
        if model is None:
            with self._lock:
                model = self._services.get(name)
                if model is None:
                    model = ServiceModel(self._loader.load_service_model(name, "service-2"), name)
                    self._services[name] = model
        return model

    def operation(self, service: str, operation: str) -> OperationModel | None:
        """Return an operation's model, or None when AWS has no such operation."""
        key = (service, operation)
        model = self._operations.get(key)
        if model is None:
            owner = self.service(service)
            if operation not in owner.operation_names:
                return None
            # Two threads may both build it; they are equal, and the first to arrive stays.
            model = self._operations.setdefault(key, owner.operation_model(operation))
        return model
