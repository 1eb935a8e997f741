"""Where settings come from, which wins, and how a wrong one is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mq9 import limits
from mq9.errors import RequestError
from mq9.settings import FIELDS, Settings, env, flag, meta_addresses, resolve


def test_without_anything_the_defaults_hold() -> None:
    assert resolve({}, {}) == Settings()


def test_flag_before_environment_before_file_before_default(tmp_path: Path) -> None:
    config = tmp_path / "mq9.toml"
    config.write_text('port = 1\nmonitor_port = 2\nuser = "file"\nping_interval_s = 7\n')
    environ = {"MQ9_PORT": "3", "MQ9_USER": "environment", "HOME": "/", "MQ9_UNRELATED": "x"}
    settings = resolve({"port": "4", "host": None}, environ, str(config))
    assert (settings.port, settings.monitor_port, settings.user, settings.ping_interval_s) == (4, 2, "environment", 7.0)
    assert settings.host == Settings().host


def test_an_empty_value_in_the_environment_is_a_value() -> None:
    assert resolve({}, {"MQ9_HOST": ""}).host == ""


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("TRUE", True), ("yes", True), ("on", True), ("0", False), ("False", False)]
)
def test_yes_and_no(text: str, value: bool) -> None:
    assert resolve({}, {"MQ9_TLS_VERIFY": text}).tls_verify is value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "x"),
        ("port", "1.5"),
        ("port", -1),
        ("port", 65_536),
        ("port", True),
        ("monitor_port", -2),
        ("max_payload", limits.PAYLOAD_BYTES_HARD_MAX + 1),
        ("max_payload", 0),
        ("max_connections", 0),
        ("write_deadline_s", 0),
        ("write_deadline_s", "nan"),
        ("ping_interval_s", "soon"),
        ("ping_interval_s", float("inf")),
        ("default_ttl_s", -1),
        ("dedup_window_s", 1),
        ("storage", "tape"),
        ("log_level", "loud"),
        ("tls_verify", "perhaps"),
        ("tls_verify", 2),
        ("host", 1),
    ],
)
def test_a_wrong_value_is_refused_by_its_flag(name: str, value: Any) -> None:
    with pytest.raises(RequestError, match=flag(name)):
        resolve({name: value}, {})


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if field.metadata["secret"]])
def test_a_wrong_secret_is_not_repeated(name: str, tmp_path: Path) -> None:
    config = tmp_path / "mq9.toml"
    config.write_text(f"{name} = true\n")
    with pytest.raises(RequestError, match=flag(name)) as refusal:
        resolve({}, {}, str(config))
    assert "True" not in refusal.value.text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("port = ", "settings file"),
        ("prot = 1", "no such setting: prot"),
        ("port = [1]", "--port"),
        ("port = 1.5", "--port"),
        ("\xff", "settings file"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    config = tmp_path / "mq9.toml"
    config.write_bytes(text.encode("latin-1"))
    with pytest.raises(RequestError, match=reason):
        resolve({}, {}, str(config))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"absent\.toml"):
        resolve({}, {}, str(tmp_path / "absent.toml"))


@pytest.mark.parametrize("name", FIELDS)
def test_every_default_is_itself_allowed(name: str) -> None:
    default = getattr(Settings(), name)
    assert resolve({name: default}, {env(name): "wrong"}) == Settings()
    if not isinstance(default, bool):
        assert resolve({}, {env(name): str(default)}) == Settings()


MEMBER = {"node_id": "b1", "meta": "127.0.0.1:9323, meta2:9323"}


def test_a_member_of_a_cluster_listens_to_brokers_on_localhost() -> None:
    settings = resolve(MEMBER, {})
    assert meta_addresses(settings) == ["127.0.0.1:9323", "meta2:9323"]
    assert (settings.peer_host, settings.peer_port) == ("127.0.0.1", 9324)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"node_id": "b1"}, "go together"),
        ({"meta": "127.0.0.1:9323"}, "go together"),
        ({**MEMBER, "meta": "127.0.0.1"}, "--meta must be host:port"),
        ({**MEMBER, "meta": "h:70000"}, "--meta must be host:port"),
        ({**MEMBER, "peer_advertise": "host"}, "--peer-advertise"),
        ({**MEMBER, "client_advertise": ":4222"}, "--client-advertise"),
        ({**MEMBER, "peer_host": "10.0.0.1"}, "needs --cluster-token or --cluster-tls-cert"),
        ({**MEMBER, "peer_host": "example.org"}, "needs --cluster-token or --cluster-tls-cert"),
        ({**MEMBER, "peer_host": "::", "cluster_token": "t"}, "--peer-advertise"),
        ({**MEMBER, "cluster_tls_cert": "c.pem"}, "go together"),
        ({**MEMBER, "storage": "memory"}, "--storage lmdb"),
        ({**MEMBER, "zone": "z" * 300}, "at most"),
        ({**MEMBER, "weight": "0"}, "--weight"),
    ],
)
def test_settings_of_a_cluster_that_cannot_be(values: dict[str, str], reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        resolve(values, {})


@pytest.mark.parametrize(
    "values",
    [
        {"peer_host": "10.0.0.1", "cluster_token": "t"},
        {"peer_host": "10.0.0.1", "cluster_tls_cert": "c", "cluster_tls_key": "k", "cluster_tls_ca": "a"},
        {"peer_host": "::", "cluster_token": "t", "peer_advertise": "b1.example.org:9324"},
        {"peer_host": "::1"},
    ],
)
def test_beyond_localhost_brokers_prove_themselves(values: dict[str, str]) -> None:
    assert resolve({**MEMBER, **values}, {}).node_id == "b1"
