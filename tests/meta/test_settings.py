"""Settings: precedence, ranges, what must go together, and that docs/meta.md lists each."""

from __future__ import annotations

from pathlib import Path

import pytest

from meta_service.settings import FIELDS, Member, MetaSettings, parse_members, resolve
from mq9.errors import Mq9Error


def test_flag_before_environment_before_file_before_default(tmp_path: Path) -> None:
    file = tmp_path / "meta.toml"
    file.write_text('node = "f"\ncluster = "f"\nlease_s = 2\n')
    settings = resolve({"node": "flag", "port": None}, {"MQ9_META_NODE": "e", "MQ9_META_CLUSTER": "e"}, str(file))
    assert (settings.node, settings.cluster, settings.lease_s, settings.port) == ("flag", "e", 2.0, 9323)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"port": "70000"}, "--port must be int from 0 to 65535"),
        ({"log_level": "loud"}, "--log-level must be one of"),
        ({"session_s": "3"}, "--session-s must be at least 1.5 x --lease-s"),
        ({"barrier_s": "1"}, "--session-s must be at least --lease-s and 4 x --barrier-s"),
        ({"heartbeat_s": "2"}, "--lease-s must be over 2 x --heartbeat-s"),
        ({"election_min_s": "0.1"}, "--election-min-s must be over 3 x"),
        ({"min_in_sync": "4"}, "--min-in-sync must not be over"),
        ({"log_entries_kept": "15000"}, "--log-entries-kept must be under half"),
        ({"tls_cert": "x"}, "--tls-cert, --tls-key and --tls-ca go together"),
        ({"members": "meta1=a,b=c"}, "names 2 nodes"),
        ({"members": "a=h,b=h,c=h"}, "does not name this node, meta1"),
        ({"members": "meta1=a:0"}, "is not name=host"),
        ({"members": "meta1=a,meta1=b,c=d"}, "is there twice"),
        ({"nonsense": 1}, "no such setting: nonsense"),
    ],
)
def test_a_wrong_setting_is_named(flags: dict[str, object], text: str) -> None:
    with pytest.raises(Mq9Error, match=text) as caught:
        resolve(flags, {})
    assert caught.value.code == "INVALID_REQUEST"


def test_a_secret_is_never_shown() -> None:
    for name, field in FIELDS.items():
        assert field.metadata["secret"] == (name in {"secret", "token"})


def test_members_have_default_ports_and_may_be_ipv6() -> None:
    settings = MetaSettings(node="a", members="a=[::1]:1:2, b=10.0.0.2:7, c=meta-c.local")
    assert parse_members(settings) == {
        "a": Member("::1", 1, 2),
        "b": Member("10.0.0.2", 7, 9323),
        "c": Member("meta-c.local", 9423, 9323),
    }
