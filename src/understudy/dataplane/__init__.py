"""The request path: routers that take InvokeEndpoint from callers to workers and forward the rest."""
