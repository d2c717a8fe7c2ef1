"""User code: ``inference.py`` with the functions that SageMaker's toolkits look for.

Owns importing the script, calling its functions with as many arguments as they take, and sound defaults for
those it lacks. Refuses anything else about models.

Main function: ``load_script``.

Functions: ``model_fn(model_dir[, context])``, ``input_fn(body, content_type[, context])``,
``predict_fn(data, model[, context])``, ``output_fn(prediction, accept[, context])``,
``transform_fn(model, body, content_type, accept[, context])``; TensorFlow's ``handler(data, context)``,
``input_handler(data, context)`` and ``output_handler(prediction, context)``. A module that says
``batch = True`` gets the rows of all waiting requests in one
``predict_fn``. A generator is a streamed answer.
"""

from __future__ import annotations

import importlib.util
import inspect
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from .calls import MAX_ANSWER_BYTES, Answer, Call, Handler, LoadFailure, answer_each
from .codecs import JSON, JSON_LINES, parse_media_type
from .loading import asked_batch, max_batch_rows, whole_number
from .script_context import Context
from .script_defaults import (
    body_and_type,
    default_input,
    default_model,
    default_output,
    default_prediction,
    piece_bytes,
)
from .spec import Container
from .together import check_results, predict_together
from .wire import ResponseHead, encode_response_head

_FUNCTIONS = (
    "model_fn", "input_fn", "predict_fn", "output_fn", "transform_fn",
    "handler", "input_handler", "output_handler",
)  # fmt: skip


def load_script(container: Container, script: Path | None, _vcpus: int) -> Handler:
    """Import the script, run its ``model_fn`` and return the handler.

    Args:
        script: None serves the artifact with all defaults.
    Raises:
        LoadFailure: a missing function is named; what user code raises passes through to ``loading``.
    """
    module = None if script is None else import_script(script, container)
    functions = {name: _function(module, name) for name in _FUNCTIONS}
    if functions["transform_fn"] and (functions["predict_fn"] or functions["output_fn"]):
        raise LoadFailure(
            "transform_fn and predict_fn together",
            "transform_fn replaces input_fn, predict_fn and output_fn: define the one or the others.",
        )
    context = Context(container, None)
    name = "inference.py" if script is None else script.name
    if functions["model_fn"] is not None:
        model = call_with_context(functions["model_fn"], (str(container.model_dir),), context)
    elif functions["handler"] is not None:
        model = None  # TensorFlow style code loads what it wants on import
    else:
        model = default_model(container, name)
    if functions["input_handler"] and not (functions["predict_fn"] or functions["handler"]) and model is None:
        raise LoadFailure(f"{name} lacks predict_fn", "input_handler needs predict_fn or a model to go to.")
    wants_batch = bool(getattr(module, "batch", False)) and asked_batch(container.environment) is not False
    if wants_batch and (functions["transform_fn"] or functions["handler"]):
        raise LoadFailure(
            f"{name}: batch = True needs predict_fn", "transform_fn and handler get one request."
        )
    return ScriptHandler(container, functions, model, name=name, batch=wants_batch)


def import_script(script: Path, container: Container) -> ModuleType:
    """Import the user's script under its own name, its directory first on the path.

    ImportError and SyntaxError of the user's code pass through, with their file and line.
    """
    for directory in (container.model_dir / "code", script.parent):
        if directory.is_dir() and str(directory) not in sys.path:
            sys.path.insert(0, str(directory))
    spec = importlib.util.spec_from_file_location(script.stem, script)
    if spec is None or spec.loader is None:
        raise LoadFailure(f"{script.name} is not a Python file", "SAGEMAKER_PROGRAM names a .py file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[script.stem] = module
    spec.loader.exec_module(module)
    return module


def _function(module: ModuleType | None, name: str) -> Callable[..., Any] | None:
    found = getattr(module, name, None)
    return found if callable(found) else None


def call_with_context(function: Callable[..., Any], arguments: tuple[Any, ...], context: Context) -> Any:
    """Call with the context as a further argument where the function takes one."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return function(*arguments)
    positional = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    if len(positional) > len(arguments):
        return function(*arguments, context)
    if any(one.name == "context" and one.kind is one.KEYWORD_ONLY for one in parameters):
        return function(*arguments, context=context)
    return function(*arguments)


def body_for_user(body: bytes, content_type: str) -> str | bytes:
    """Hand text over as str and the rest as bytes, as the toolkits do; what is not UTF-8 stays bytes."""
    media = parse_media_type(content_type)[0]
    if media.startswith("text/") or media in (JSON, JSON_LINES):
        try:
            return body.decode("utf-8")
        except UnicodeDecodeError:
            return body
    return body


class ScriptHandler:
    """A loaded script."""

    kind = "script"
    inline = False

    def __init__(
        self,
        container: Container,
        functions: dict[str, Callable[..., Any] | None],
        model: Any,
        *,
        name: str,
        batch: bool,
    ) -> None:
        """Keep the functions; which are there decides the way of a request."""
        environment = container.environment
        self._container = container
        self._functions = functions
        self._model = model
        self.batch = batch
        self.note = f"{name}: {', '.join(one for one in _FUNCTIONS if functions[one]) or 'defaults'}"
        self.threads = whole_number(environment, "UNDERSTUDY_WORKER_THREADS", 1)
        self._max_rows = max_batch_rows(environment)
        self._default_accept = environment.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", JSON)

    def answer(self, calls: Sequence[Call]) -> list[Answer]:
        """Answer calls one by one, or with one ``predict_fn`` where the script says that it can."""
        if not self.batch or len(calls) == 1:
            return answer_each(calls, self._answer_one)
        return predict_together(
            calls,
            decode=lambda call: self._input(call, Context(self._container, call)),
            predict=lambda data: self._predict(data, Context(self._container, None)),
            render=lambda call, prediction: self._output(call, prediction, Context(self._container, call)),
            max_rows=self._max_rows,
        )

    def _answer_one(self, call: Call) -> Answer:
        functions, context = self._functions, Context(self._container, call)
        content_type = call.head.content_type
        if functions["transform_fn"] is not None:
            body = body_for_user(call.body, content_type)
            result = call_with_context(
                functions["transform_fn"],
                (self._model, body, content_type, self._accept(call)),
                context,
            )
            return self._finish(call, result, context)
        if functions["handler"] is not None:
            return self._finish(call, functions["handler"](io.BytesIO(call.body), context), context)
        data = self._input(call, context)
        return self._output(call, self._predict(data, context), context)

    def _accept(self, call: Call) -> str:
        accept = call.head.accept
        return accept if accept and accept.strip() != "*/*" else self._default_accept

    def _input(self, call: Call, context: Context) -> Any:
        functions, content_type = self._functions, call.head.content_type
        if functions["input_fn"] is not None:
            body = body_for_user(call.body, content_type)
            return call_with_context(functions["input_fn"], (body, content_type), context)
        if functions["input_handler"] is not None:
            return functions["input_handler"](io.BytesIO(call.body), context)
        return default_input(call.body, content_type)

    def _predict(self, data: Any, context: Context) -> Any:
        function = self._functions["predict_fn"]
        if function is None:
            return default_prediction(data, self._model)
        prediction = call_with_context(function, (data, self._model), context)
        if self.batch:
            check_results(data, prediction, "predict_fn")
        return prediction

    def _output(self, call: Call, prediction: Any, context: Context) -> Answer:
        functions, accept = self._functions, self._accept(call)
        if functions["output_fn"] is not None:
            result = call_with_context(functions["output_fn"], (prediction, accept), context)
        elif functions["output_handler"] is not None:
            result = functions["output_handler"](prediction, context)
        elif isinstance(prediction, Iterator):
            result = prediction  # streamed
        else:
            result = default_output(prediction, call.head.accept, self._default_accept)
        return self._finish(call, result, context)

    def _finish(self, call: Call, result: Any, context: Context) -> Answer:
        """Turn what the last user function returned into an answer; generators stream."""
        status, body, content_type, attributes = body_and_type(result, self._accept(call))
        head = encode_response_head(
            ResponseHead(
                content_type=context.response_content_type or content_type,
                custom_attributes=context.response_custom_attributes or attributes,
            )
        )
        if isinstance(body, bytes):
            return Answer(status, head, body)
        pieces = _closing(map(piece_bytes, body), body)
        if call.head.wants_stream:
            return Answer(status, head, b"", pieces)
        return Answer(status, head, _joined(pieces))

    def close(self) -> None:
        """Nothing to let go of."""


def _joined(pieces: Iterator[bytes]) -> bytes:
    """Join a generator's pieces for a caller that wants them whole; an endless one is the model's error."""
    whole = bytearray()
    for piece in pieces:
        whole += piece
        if len(whole) > MAX_ANSWER_BYTES:
            raise ValueError(
                f"The answer exceeds {MAX_ANSWER_BYTES} bytes: ask with InvokeEndpointWithResponseStream."
            )
    return bytes(whole)


def _closing(pieces: Iterator[bytes], source: Any) -> Iterator[bytes]:
    """Draw the pieces; when the caller is gone, let the user's generator run its ``finally``."""
    try:
        yield from pieces
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            close()
