"""The settings in the Helm chart's values.schema.json: written from the code, and compared with it by tests/deploy.

`make docs` writes them.

`broker.settings` and `meta.settings` of the chart's values take what brokers and meta nodes are set with, by the same names;
what the chart sets by itself, and secrets, are not among them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from meta_service.settings import FIELDS as META_FIELDS
from mq9.settings import FIELDS

SCHEMA: Final = Path(__file__).parents[1] / "helm" / "mq9" / "values.schema.json"
# Values of the chart that have a better place than `settings`, or none at all: addresses, files, identities.
BROKER_MANAGED: Final = frozenset({
    "host", "port", "monitor_host", "monitor_port", "data_dir", "server_name", "tls_cert", "tls_key", "tls_ca", "tls_verify",
    "ws_host", "ws_port", "user", "node_id", "meta", "peer_host", "peer_port", "peer_advertise", "client_advertise",
    "cluster_tls_cert", "cluster_tls_key", "cluster_tls_ca",
})  # fmt: skip
META_MANAGED: Final = frozenset({
    "node", "members", "cluster", "host", "port", "raft_host", "raft_port", "monitor_host", "monitor_port", "data_dir",
    "tls_cert", "tls_key", "tls_ca",
})  # fmt: skip
_TYPES: Final = {str: "string", int: "integer", float: "number", bool: "boolean"}


def settings_schema(fields: Mapping[str, dataclasses.Field[Any]], managed: Collection[str]) -> dict[str, Any]:
    """The JSON schema of an object of these settings."""
    properties: dict[str, Any] = {}
    for name, field in fields.items():
        if name in managed or field.metadata["secret"]:
            continue
        properties[name] = {"type": _TYPES[type(field.default)], "description": field.metadata["doc"]}
        if field.metadata["choices"]:
            properties[name]["enum"] = list(field.metadata["choices"])
    return {"type": "object", "additionalProperties": False, "properties": properties}


def rewritten(text: str) -> str:
    """`text` of the schema with the settings as the code has them now."""
    schema = json.loads(text)
    roles = schema["properties"]
    roles["broker"]["properties"]["settings"] = settings_schema(FIELDS, BROKER_MANAGED)
    roles["meta"]["properties"]["settings"] = settings_schema(META_FIELDS, META_MANAGED)
    return json.dumps(schema, indent=2) + "\n"


def main() -> None:
    """Write what differs."""
    text = SCHEMA.read_text()
    if (new := rewritten(text)) != text:
        SCHEMA.write_text(new)
        print(f"wrote {SCHEMA.name}")
