"""The generated code is what proto/ says."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from mq9.meta.rpc import RPCS, SERVICE
from mq9.v1 import meta_pb2 as meta
from tests.support.server import ROOT


def test_the_generated_code_agrees_with_its_source(tmp_path: Path) -> None:
    if find_spec("grpc_tools") is None:
        pytest.skip("grpcio-tools is not installed")
    subprocess.run([ROOT / "scripts" / "proto", str(tmp_path)], check=True, env={**os.environ, "PYTHON": sys.executable})
    for made in sorted((tmp_path / "mq9" / "v1").iterdir()):
        assert made.read_text() == (ROOT / "mq9" / "v1" / made.name).read_text(), f"run scripts/proto: {made.name} is old"


def test_the_table_of_calls_is_the_service() -> None:
    service = meta.DESCRIPTOR.services_by_name["Meta"]
    assert service.full_name == SERVICE
    declared = {
        method.name: (method.input_type.name, method.output_type.name, method.client_streaming, method.server_streaming)
        for method in service.methods
    }
    table = {
        rpc.name: (rpc.request.DESCRIPTOR.name, rpc.reply.DESCRIPTOR.name, rpc.request_streams, rpc.reply_streams)
        for rpc in RPCS.values()
    }
    assert table == declared
