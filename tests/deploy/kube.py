"""As much of a Kubernetes API as Helm asks when it looks Secrets up: a stand-in for a cluster in which a release is there."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.deploy.rendering import KUBERNETES

_SECRETS = {"name": "secrets", "singularName": "secret", "namespaced": True, "kind": "Secret", "verbs": ["get", "list"]}


@contextmanager
def kubernetes(secrets: list[dict[str, Any]]) -> Iterator[str]:
    """An API at the address given that has these Secrets and nothing else."""
    major, minor = KUBERNETES.split(".")
    pages: dict[str, Any] = {
        "/version": {"major": major, "minor": minor, "gitVersion": f"v{KUBERNETES}.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
        "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": [_SECRETS]},
    }
    for secret in secrets:
        place = secret["metadata"]
        pages[f"/api/v1/namespaces/{place['namespace']}/secrets/{place['name']}"] = secret

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = pages.get(self.path.partition("?")[0])
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            body = json.dumps(page or missing).encode()
            self.send_response(200 if page else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing is said on standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
