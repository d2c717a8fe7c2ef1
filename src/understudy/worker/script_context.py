"""The ``context`` that user functions may take, in both toolkits' shapes.

Owns reading request facts and setting the answer's type. Main class: ``Context``.
"""

from __future__ import annotations

from typing import Any

from .calls import MIRRORED_HEADER, Call
from .spec import Container


class Context:
    """What is known about the request.

    PyTorch's shape: ``system_properties``, ``get_request_header(0, name)``, ``set_response_content_type``.
    TensorFlow's shape: ``request_content_type``, ``accept_header``, ``custom_attributes``, ``model_name``.

    ``mirrored`` (also the header ``X-Understudy-Mirrored: true``) says that a shadow's copy is being
    answered: whoever has effects besides the answer should not have them.
    """

    def __init__(self, container: Container, call: Call | None) -> None:
        """Describe one call, or none at load time."""
        head = None if call is None else call.head
        self.model_name = container.hostname
        self.method = "predict"
        self.content_length = 0 if call is None else len(call.body)
        self.request_content_type = "" if head is None else head.content_type
        self.accept_header = "" if head is None else head.accept
        self.custom_attributes = "" if head is None else head.custom_attributes
        self.inference_id = "" if head is None else head.inference_id
        self.session_id = "" if head is None else head.session_id
        self.target_model = "" if head is None else head.target_model
        self.variant = "" if head is None else head.variant
        self.mirrored = False if head is None else head.is_mirrored
        self.system_properties: dict[str, Any] = {"model_dir": str(container.model_dir), "gpu_id": None}
        self.manifest: dict[str, Any] = {"model": {"modelName": container.hostname}}
        self.response_content_type = ""
        self.response_custom_attributes = ""

    def get_all_request_header(self, _index: int = 0) -> dict[str, str]:
        """Return the headers as a container on SageMaker sees them."""
        headers = {
            "Content-Type": self.request_content_type,
            "Accept": self.accept_header,
            "X-Amzn-SageMaker-Custom-Attributes": self.custom_attributes,
            "X-Amzn-SageMaker-Inference-Id": self.inference_id,
            "X-Amzn-SageMaker-Target-Model": self.target_model,
            "X-Amzn-SageMaker-Session-Id": self.session_id,
            MIRRORED_HEADER: "true" if self.mirrored else "",
        }
        return {name: value for name, value in headers.items() if value}

    def get_request_header(self, index: int, name: str) -> str | None:
        """Return one header, whatever its case."""
        wanted = name.lower()
        for header, value in self.get_all_request_header(index).items():
            if header.lower() == wanted:
                return value
        return None

    def set_response_content_type(self, _index: int, value: str) -> None:
        """Set the answer's Content-Type."""
        self.response_content_type = value

    def set_response_header(self, _index: int, name: str, value: str) -> None:
        """Set a header of the answer; those that SageMaker passes on are kept."""
        if name.lower() == "content-type":
            self.response_content_type = value
        elif name.lower() == "x-amzn-sagemaker-custom-attributes":
            self.response_custom_attributes = value
