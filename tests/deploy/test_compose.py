"""docker-compose.yml: what Compose makes of it, what the processes make of their environment, and that they find each other."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from meta_service.settings import FIELDS as META_FIELDS
from meta_service.settings import parse_members
from meta_service.settings import resolve as resolve_meta
from mq9.settings import FIELDS, meta_addresses, resolve
from tests.deploy.composition import (
    BROKERS,
    COMPOSE,
    ENTRYPOINT,
    HEALTHY_S,
    METAS,
    ROOT,
    Composition,
    image_environment,
    services,
)
from tests.deploy.rendering import CHECK, RefusedError, builds_tools, run

CLUSTER = {"keys", *METAS, *BROKERS}


@pytest.fixture(scope="module")
def plain() -> dict[str, dict[str, Any]]:
    """The services as they are when nothing is set."""
    return services({})


# --- What Compose makes of it -----------------------------------------------------------------------------------------


@builds_tools
@pytest.mark.parametrize(
    ("profiles", "wanted"),
    [((), CLUSTER), (("prometheus",), CLUSTER | {"prometheus"}), (("single",), {"single"})],
    ids=["up", "prometheus", "single"],
)
def test_compose_takes_it_and_starts(profiles: tuple[str, ...], wanted: set[str]) -> None:
    project = json.loads(run(CHECK, "compose", str(COMPOSE), *profiles))
    assert project["services"].keys() == wanted
    published = [
        (port["host_ip"], port["published"]) for service in project["services"].values() for port in service.get("ports", [])
    ]
    assert {host for host, _ in published} == {"127.0.0.1"}
    assert len(published) == len(set(published))


@builds_tools
def test_compose_refuses_what_is_wrong(tmp_path: Path) -> None:
    broken = tmp_path / "docker-compose.yml"
    for right, wrong in (("    ports: [", "    port: ["), ("meta1: { condition", "meta9: { condition")):
        assert right in COMPOSE.read_text()
        broken.write_text(COMPOSE.read_text().replace(right, wrong, 1))
        with pytest.raises(RefusedError):
            run(CHECK, "compose", str(broken), "cluster")


# --- What is in it ----------------------------------------------------------------------------------------------------


def test_every_variable_is_a_setting(plain: dict[str, dict[str, Any]]) -> None:
    settings = {f"MQ9_{name.upper()}" for name in FIELDS} | {f"MQ9_META_{name.upper()}" for name in META_FIELDS}
    named = {name for service in plain.values() for name in service.get("environment", {})} | image_environment().keys()
    assert not {name for name in named if name.removesuffix("_FILE") not in settings}


def test_no_secret_is_in_the_file(plain: dict[str, dict[str, Any]]) -> None:
    secret = {f"MQ9_{name.upper()}" for name, field in FIELDS.items() if field.metadata["secret"]}
    secret |= {f"MQ9_META_{name.upper()}" for name, field in META_FIELDS.items() if field.metadata["secret"]}
    for service in plain.values():
        assert not [name for name, value in service.get("environment", {}).items() if name in secret and value]
        assert "--" not in str(service.get("command"))


def test_containers_have_no_more_rights_than_they_need(plain: dict[str, dict[str, Any]]) -> None:
    for name, service in plain.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service.get("read_only") or name == "prometheus"
        assert not {"privileged", "user", "pid"} & service.keys()


def test_brokers_wait_for_healthy_meta_nodes_and_nobody_for_a_broker(plain: dict[str, dict[str, Any]]) -> None:
    for name in METAS:
        assert plain[name]["depends_on"] == {"keys": {"condition": "service_completed_successfully"}}
    for name in BROKERS:
        assert plain[name]["depends_on"] == {meta: {"condition": "service_healthy"} for meta in METAS}
        settings = resolve({}, {**image_environment(), **plain[name]["environment"], "MQ9_CLUSTER_TOKEN": "from the file"})
        time_s = settings.lame_duck_grace_s + settings.lame_duck_close_s
        assert int(plain[name]["stop_grace_period"].removesuffix("s")) >= time_s + 15


def test_nodes_keep_their_data_in_volumes_of_their_own(plain: dict[str, dict[str, Any]]) -> None:
    volumes = [volume for name in (*METAS, *BROKERS, "single") for volume in plain[name]["volumes"] if "keys" not in volume]
    assert len(set(volumes)) == 7
    assert {volume.partition(":")[2] for volume in volumes} == {"/var/lib/mq9"}
    assert {volume.partition(":")[0] for volume in volumes} < yaml.safe_load(COMPOSE.read_text())["volumes"].keys()


def test_all_name_the_same_meta_nodes_and_themselves(plain: dict[str, dict[str, Any]]) -> None:
    found = set()
    for name in METAS:
        env = {**image_environment(), **plain[name]["environment"], "MQ9_META_SECRET": "s", "MQ9_META_TOKEN": "t"}
        settings = resolve_meta({}, env)
        assert settings.node == name
        assert {node: member.host for node, member in parse_members(settings).items()} == {node: node for node in METAS}
        found.add(tuple(member.api_address for member in parse_members(settings).values()))
    for name in BROKERS:
        broker = resolve({}, {**image_environment(), **plain[name]["environment"], "MQ9_CLUSTER_TOKEN": "t"})
        assert (broker.node_id, broker.peer_advertise) == (name, f"{name}:{broker.peer_port}")
        assert f"{broker.client_advertise}:{broker.port}" in plain[name]["ports"]
        found.add(tuple(meta_addresses(broker)))
    assert len(found) == 1


def test_prometheus_asks_every_node() -> None:
    jobs = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())["scrape_configs"]
    assert {job["metrics_path"] for job in jobs} == {"/metrics"}
    targets = [target for job in jobs for group in job["static_configs"] for target in group["targets"]]
    wanted = [f"{name}:{FIELDS['monitor_port'].default}" for name in BROKERS]
    assert targets == wanted + [f"{name}:{META_FIELDS['monitor_port'].default}" for name in METAS]


# --- That it works ----------------------------------------------------------------------------------------------------


def test_keys_are_made_once_and_for_their_owner_alone(composition: Composition) -> None:
    made = {path.name: path.read_text() for path in composition.keys.iterdir()}
    assert made.keys() == {"cluster-token", "meta-secret"}
    assert len(set(made.values())) == 2
    assert {len(text) for text in made.values()} == {64}
    assert {stat.S_IMODE(path.stat().st_mode) for path in composition.keys.iterdir()} == {0o600}
    composition.make_keys()
    assert {path.name: path.read_text() for path in composition.keys.iterdir()} == made


def test_keys_of_the_environment_come_first(tmp_path: Path) -> None:
    given = {"MQ9_CLUSTER_TOKEN": "token of mine", "MQ9_META_SECRET": "secret of mine"}
    composition = Composition(tmp_path, **given)
    assert composition.environment("meta1")["MQ9_META_TOKEN"] == "token of mine"
    assert composition.environment("meta1")["MQ9_META_SECRET"] == "secret of mine"
    assert composition.environment("broker1")["MQ9_CLUSTER_TOKEN"] == "token of mine"


def test_meta_nodes_are_healthy_when_they_have_found_each_other(composition: Composition) -> None:
    composition.spawn("meta1").read_line()
    assert not composition.is_healthy("meta1"), "one of three leads nobody"
    for name in METAS[1:]:
        composition.spawn(name).read_line()
    composition.wait_healthy(*METAS)
    composition.processes["meta2"].stop()
    assert not composition.is_healthy("meta2")


def test_the_single_broker_is_healthy_and_takes_messages(composition: Composition) -> None:
    process = composition.spawn("single")
    process.read_line()
    process.drain_output()
    composition.wait_healthy("single")
    url = f"nats://{composition.addresses['single']}:4222"
    _talk(composition, [url, url, url])


@pytest.mark.timeout(400)
def test_three_brokers_are_one_to_their_clients(composition: Composition) -> None:
    composition.up()
    _talk(composition, [f"nats://{composition.addresses[name]}:4222" for name in BROKERS])
    # docker compose exec broker1 mq9-entrypoint cluster status
    status = subprocess.run(
        [str(ENTRYPOINT), "cluster", "status", "--json"],
        env=composition.environment("broker1"),
        capture_output=True,
        text=True,
        timeout=HEALTHY_S,
        check=False,
    )
    assert status.returncode == 0, status.stderr
    assert {broker["id"] for broker in json.loads(status.stdout)["brokers"]} == set(BROKERS)


def _talk(composition: Composition, urls: list[str]) -> None:
    """CREATE on the first, SEND on the second, FETCH and ACK on the third: with the command line, as a user would."""
    commands = [
        ["mailbox", "create", "a.box"],
        ["send", "a.box", "hello"],
        ["fetch", "a.box", "--group", "g", "--deliver", "earliest", "--ack", "--raw"],
    ]
    answers = []
    for url, command in zip(urls, commands, strict=True):
        done = subprocess.run(
            ["mq9", *command],
            env={**os.environ, "PATH": composition.environment("single")["PATH"], "PYTHONPATH": str(ROOT), "MQ9_URL": url},
            capture_output=True,
            text=True,
            timeout=HEALTHY_S,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        answers.append(done.stdout.strip())
    assert answers[2] == "hello"
