"""Sends every AWS call of this process to one Understudy server and lets none leave the machine.

Works by patching botocore (also the AWS CLI's own copy) when it is imported, or at once when it has been:

- a client gets the server's URL, region and keys, whatever the code asked for (the SageMaker SDK
  hard-codes the address of STS; notebooks name profiles and regions), and path-style S3;
- a request that was resolved to an AWS host all the same (a client made earlier) is rewritten before it
  is signed;
- whatever else looks up an AWS host (telemetry, plain HTTPS) is refused with the reason.

An ``endpoint_url`` that is not AWS's (a MinIO, another emulator) is left alone.

Stdlib only, Python 3.9 and later, never raises at import.  Main function: :func:`activate`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit, urlunsplit

AWS_DOMAINS = ("amazonaws.com", "amazonaws.com.cn", "amazonaws.eu", "api.aws", "on.aws")
"""Hosts below these are AWS's APIs."""

URL_VARIABLE = "UNDERSTUDY_REDIRECT_URL"
"""Set by ``understudy exec`` for the processes below it; the keys come in the AWS_* variables."""


class Target(NamedTuple):
    """The server that gets the calls."""

    endpoint_url: str
    access_key_id: str
    secret_access_key: str
    region: str


_target: Target | None = None


def activate(target: Target) -> None:
    """Redirect this process, from now on and for what is imported later.

    Calling it again changes the server for clients made from then on.
    """
    global _target
    first = _target is None
    _target = target
    if not first:
        return
    for name, patch in _PATCHES.items():
        if name in sys.modules:
            patch(sys.modules[name])
    sys.meta_path.insert(0, _Finder())


def activate_from_environment() -> None:
    """Redirect this process when ``understudy exec`` started it; do nothing otherwise."""
    url = os.environ.get(URL_VARIABLE)  # noqa: TID251 - the only way in from a parent process
    key_id = os.environ.get("AWS_ACCESS_KEY_ID")  # noqa: TID251
    secret = os.environ.get("AWS_SECRET_ACCESS_KEY")  # noqa: TID251
    region = os.environ.get("AWS_DEFAULT_REGION")  # noqa: TID251
    if url and key_id and secret and region:
        activate(Target(url, key_id, secret, region))


def is_aws_host(host: str | None) -> bool:
    """Tell whether a host name is one of AWS's APIs.

    >>> is_aws_host("sts.us-east-1.amazonaws.com"), is_aws_host("127.0.0.1"), is_aws_host("xamazonaws.com")
    (True, False, False)
    """
    name = (host or "").rstrip(".").lower()
    return any(name == domain or name.endswith("." + domain) for domain in AWS_DOMAINS)


def redirected(url: str, endpoint_url: str) -> str:
    """Give the server's URL for a URL at an AWS host; a bucket in the host name moves into the path.

    >>> redirected("https://b.s3.eu-west-1.amazonaws.com/k?x=1", "http://127.0.0.1:8080")
    'http://127.0.0.1:8080/b/k?x=1'
    >>> redirected("https://sts.us-east-1.amazonaws.com/", "http://127.0.0.1:8080")
    'http://127.0.0.1:8080/'
    """
    parts = urlsplit(url)
    base = urlsplit(endpoint_url)
    path = parts.path or "/"
    labels = (parts.hostname or "").split(".")
    for index in range(1, len(labels)):
        if labels[index] == "s3" or labels[index].startswith("s3-"):
            bucket = ".".join(labels[:index])
            path = "/" + quote(bucket) + path
            break
    return urlunsplit((base.scheme, base.netloc, path, parts.query, ""))


# --- botocore --------------------------------------------------------------------------------------


def _patch_session(module: Any) -> None:
    """Make ``Session.create_client`` build clients of the server."""
    original = module.Session.create_client
    signature = inspect.signature(original)
    config_module = module.__name__.rpartition(".")[0] + ".config"

    @functools.wraps(original)
    def create_client(*args: Any, **kwargs: Any) -> Any:
        if _target is None:
            return original(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        given = bound.arguments
        asked = given.get("endpoint_url")
        if asked and not is_aws_host(urlsplit(asked).hostname) and not _is_target(asked):
            return original(*args, **kwargs)
        own: dict[str, Any] = {
            # {} and not None: no proxy stands between this process and its own machine.
            "proxies": {},
            "inject_host_prefix": False,
            "use_fips_endpoint": False,
            "use_dualstack_endpoint": False,
        }
        if given["service_name"] == "s3":
            asked_config = given.get("config") or bound.args[0].get_default_client_config()
            asked_s3 = getattr(asked_config, "s3", None) or {}
            own["s3"] = {
                **asked_s3,
                "addressing_style": "path",
                "use_accelerate_endpoint": False,
                "use_dualstack_endpoint": False,
            }
        config = importlib.import_module(config_module).Config(**own)
        given["config"] = given["config"].merge(config) if given.get("config") is not None else config
        given["endpoint_url"] = _target.endpoint_url
        given["region_name"] = _target.region
        given["aws_access_key_id"] = _target.access_key_id
        given["aws_secret_access_key"] = _target.secret_access_key
        given["aws_session_token"] = None
        return original(*bound.args, **bound.kwargs)

    module.Session.create_client = create_client


def _patch_endpoint(module: Any) -> None:
    """Rewrite requests to AWS hosts before they are signed: clients made before activation."""
    original = module.Endpoint.create_request

    @functools.wraps(original)
    def create_request(self: Any, params: Any, operation_model: Any = None) -> Any:
        if _target is not None and is_aws_host(urlsplit(params["url"]).hostname):
            params["url"] = redirected(params["url"], _target.endpoint_url)
            # The URL is only a view; botocore signs with the host of the URL unless a header names one.
            params["headers"].pop("Host", None)
        return original(self, params, operation_model)

    module.Endpoint.create_request = create_request


def _is_target(url: str) -> bool:
    return _target is not None and urlsplit(url).netloc == urlsplit(_target.endpoint_url).netloc


# --- everything else -------------------------------------------------------------------------------


def _refusal(host: str) -> str:
    return (
        f"{host} is an address of AWS; this process runs under `understudy exec` (or "
        "understudy.sdk.activate), which keeps AWS calls on this machine"
    )


def _patch_socket(module: Any) -> None:
    """Refuse to look up AWS hosts."""
    original = module.getaddrinfo

    @functools.wraps(original)
    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode("ascii", "replace") if isinstance(host, bytes) else host
        if isinstance(name, str) and is_aws_host(name):
            raise module.gaierror(module.EAI_NONAME, _refusal(name))
        return original(host, *args, **kwargs)

    module.getaddrinfo = getaddrinfo


def _patch_http_client(module: Any) -> None:
    """Refuse to reach AWS hosts through a proxy, which would look them up itself."""
    set_tunnel = module.HTTPConnection.set_tunnel
    putrequest = module.HTTPConnection.putrequest

    @functools.wraps(set_tunnel)
    def guarded_set_tunnel(self: Any, host: str, *args: Any, **kwargs: Any) -> Any:
        if is_aws_host(host.partition(":")[0]):
            raise OSError(_refusal(host))
        return set_tunnel(self, host, *args, **kwargs)

    @functools.wraps(putrequest)
    def guarded_putrequest(self: Any, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        if "://" in url[:8] and is_aws_host(urlsplit(url).hostname):
            raise OSError(_refusal(url))
        return putrequest(self, method, url, *args, **kwargs)

    module.HTTPConnection.set_tunnel = guarded_set_tunnel
    module.HTTPConnection.putrequest = guarded_putrequest


_PATCHES: dict[str, Callable[[Any], None]] = {
    "botocore.session": _patch_session,
    "botocore.endpoint": _patch_endpoint,
    # The AWS CLI of the package index carries a botocore of its own.
    "awscli.botocore.session": _patch_session,
    "awscli.botocore.endpoint": _patch_endpoint,
    "socket": _patch_socket,
    "http.client": _patch_http_client,
}


class _Finder:
    """Finds nothing itself: has the modules of ``_PATCHES`` patched as soon as they have run."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        patch = _PATCHES.get(name)
        if patch is None:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                break
        else:
            return None
        loader: Any = spec.loader
        run = getattr(loader, "exec_module", None)
        if run is None:
            return spec

        def exec_module(module: Any) -> None:
            # The loader itself stays in place (importlib.resources and inspect ask it for more).
            del loader.exec_module
            run(module)
            patch(module)

        loader.exec_module = exec_module
        return spec
