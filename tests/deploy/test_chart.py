"""The Helm chart, rendered by Helm: what it makes of values, and what it refuses."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from broker_node.cluster.membership import LEAVE_S
from broker_node.cluster.node import NOTICE_S, SETTLE_S
from broker_node.cluster.standings import TOGETHER_S
from broker_node.server import FLUSH_S_MAX
from meta_service.settings import FIELDS as META_FIELDS
from meta_service.settings import parse_members
from meta_service.settings import resolve as resolve_meta
from mq9.settings import FIELDS, Settings, meta_addresses, resolve
from tests.deploy.kube import kubernetes
from tests.deploy.rendering import (
    BUILDS_TOOLS,
    CHART,
    CHECK,
    HELM,
    Manifest,
    RefusedError,
    environment,
    of_kind,
    pods,
    rendered,
    run,
)

COMPONENT = "app.kubernetes.io/component"
ANYBODY = "anybody"
ANYWHERE = "0.0.0.0"  # noqa: S104  # compared
DISK_S = 5  # for what is staged when a broker has let go of everybody
TMP = {"name": "tmp", "mountPath": "/tmp"}  # noqa: S108  # an empty volume there
pytestmark = BUILDS_TOOLS

EXPOSED: dict[str, Any] = {
    "tls": {"client": {"existingSecret": "client-tls", "verify": True}, "cluster": {"existingSecret": "cluster-tls"}},
    "service": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "loadBalancerSourceRanges": ["10.0.0.0/8"]},
    "metrics": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
    "broker": {
        "replicas": 5,
        "antiAffinity": "hard",
        "zoneFromPodLabel": True,
        "websocket": {"enabled": True, "port": 8080},
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}
        ],
        "settings": {
            "ack_wait_ms": 60_000, "max_mailbox_bytes": 107_374_182_400, "lame_duck_grace_s": 2.5, "lame_duck_close_s": 4,
            "sync": False, "naming": "extended",
        },
        "extraEnv": [{"name": "MQ9_EMBEDDING_KEY", "valueFrom": {"secretKeyRef": {"name": "models", "key": "key"}}}],
    },
    "meta": {"replicas": 5, "antiAffinity": "none", "settings": {"session_s": 6, "barrier_s": 0.25}},
    "networkPolicy": {"clientFrom": [{"namespaceSelector": {"matchLabels": {"agents": "yes"}}}]},
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "single": {"mode": "single"},
    "exposed": EXPOSED,
    "bare": {
        "auth": {"mode": "none"},
        "cluster": {"existingSecret": "of-mine"},
        "networkPolicy": {"enabled": False},
        "serviceAccount": {"create": False},
        "meta": {"replicas": 1, "persistence": {"enabled": False}, "podDisruptionBudget": {"enabled": False}},
        "broker": {"persistence": {"enabled": False}},
    },
    "passwords": {"auth": {"mode": "password"}, "networkPolicy": {"restrictEgress": False}, "fullnameOverride": "mail"},
    "single-secured": {
        "mode": "single",
        "auth": {"mode": "password", "existingSecret": "of-mine"},
        "tls": {"client": {"existingSecret": "client-tls"}},
    },
}


@pytest.fixture(scope="module")
def charts() -> dict[str, list[Manifest]]:
    """Every case, rendered and taken by the strict checker."""
    return {name: rendered(values) for name, values in CASES.items()}


@pytest.fixture(params=CASES)
def manifests(request: pytest.FixtureRequest, charts: dict[str, list[Manifest]]) -> list[Manifest]:
    return charts[request.param]


def _set(manifests: list[Manifest], component: str) -> Manifest:
    (found,) = of_kind(manifests, "StatefulSet", component)
    return found


def _container(manifests: list[Manifest], component: str) -> Manifest:
    found: Manifest = _set(manifests, component)["spec"]["template"]["spec"]["containers"][0]
    return found


def _broker_settings(manifests: list[Manifest], number: int = 0) -> Settings:
    name = f"{_set(manifests, 'broker')['metadata']['name']}-{number}"
    env = environment(_container(manifests, "broker"), name)
    assert not [each for each in env if each.startswith("MQ9_") and each.removeprefix("MQ9_").lower() not in FIELDS]
    return resolve({}, env)


# --- What there is ----------------------------------------------------------------------------------------------------


def test_a_cluster_has_two_stateful_sets_and_what_belongs_to_them(charts: dict[str, list[Manifest]]) -> None:
    kinds = sorted(each["kind"] for each in charts["defaults"])
    assert kinds == sorted(
        ["StatefulSet"] * 2 + ["Service"] * 3 + ["PodDisruptionBudget"] * 2 + ["NetworkPolicy"] * 2 + ["Secret"] * 2
        + ["ServiceAccount", "Pod"]
    )  # fmt: skip
    assert [_set(charts["defaults"], role)["spec"]["replicas"] for role in ("meta", "broker")] == [3, 3]


def test_a_single_broker_has_no_meta_service(charts: dict[str, list[Manifest]]) -> None:
    kinds = sorted(each["kind"] for each in charts["single"])
    assert kinds == sorted(["StatefulSet", "Service", "Service", "NetworkPolicy", "Secret", "ServiceAccount", "Pod"])
    assert _set(charts["single"], "broker")["spec"]["replicas"] == 1
    assert _container(charts["single"], "broker")["args"] == ["server"]
    assert not _broker_settings(charts["single"]).node_id


def test_names_are_unique_and_in_the_namespace(manifests: list[Manifest]) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in manifests]
    assert len(names) == len(set(names))
    assert {each["metadata"]["namespace"] for each in manifests} == {"agents"}
    assert all(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name) for _, name in names)


# --- What fits together -----------------------------------------------------------------------------------------------


def _selectors(each: Manifest) -> list[dict[str, str]]:
    """The labels that a manifest looks for in pods."""
    spec = each.get("spec", {})
    if each["kind"] == "Service":
        return [spec["selector"]]
    found = [spec[key]["matchLabels"] for key in ("selector", "podSelector") if key in spec]
    for direction, side in (("ingress", "from"), ("egress", "to")):
        peers = [peer for rule in spec.get(direction, []) for peer in rule.get(side, [])]
        found += [peer["podSelector"]["matchLabels"] for peer in peers if peer.get("podSelector")]
    return found


def test_every_selector_finds_pods_of_one_role(manifests: list[Manifest]) -> None:
    labels = [labels for labels, _ in pods(manifests)]
    for each in manifests:
        if each["kind"] == "ServiceMonitor":
            continue
        for selector in _selectors(each):
            found = [set(selector.items()) <= set(of_pod.items()) for of_pod in labels]
            assert sum(found) == 1, f"{each['kind']} {each['metadata']['name']} selects {sum(found)} kinds of pods"


def test_service_monitors_find_the_headless_services(charts: dict[str, list[Manifest]]) -> None:
    services = of_kind(charts["exposed"], "Service")
    monitors = of_kind(charts["exposed"], "ServiceMonitor")
    assert len(monitors) == 2
    for monitor in monitors:
        wanted = set(monitor["spec"]["selector"]["matchLabels"].items())
        (found,) = [each for each in services if wanted <= set(each["metadata"]["labels"].items())]
        (endpoint,) = monitor["spec"]["endpoints"]
        assert endpoint["port"] in {port["name"] for port in found["spec"]["ports"]}
        assert endpoint["path"] == "/metrics"


def test_stateful_sets_name_headless_services_that_publish_early(manifests: list[Manifest]) -> None:
    services = {each["metadata"]["name"]: each["spec"] for each in of_kind(manifests, "Service")}
    for each in of_kind(manifests, "StatefulSet"):
        spec = services[each["spec"]["serviceName"]]
        assert spec["clusterIP"] == "None"
        assert spec["publishNotReadyAddresses"]
        assert each["spec"]["podManagementPolicy"] == "Parallel"


def test_ports_are_the_settings_defaults_and_called_the_same_everywhere(manifests: list[Manifest]) -> None:
    defaults = {
        "broker": {"client": FIELDS["port"], "monitor": FIELDS["monitor_port"], "peer": FIELDS["peer_port"]},
        "meta": {"api": META_FIELDS["port"], "raft": META_FIELDS["raft_port"], "monitor": META_FIELDS["monitor_port"]},
        "test": {},
    }
    named = {port["name"] for _, pod in pods(manifests) for port in pod["containers"][0].get("ports", [])}
    for labels, pod in pods(manifests):
        ports = {port["name"]: port["containerPort"] for port in pod["containers"][0].get("ports", [])}
        known = defaults[labels["app.kubernetes.io/component"]]
        assert {name: known[name].default for name in ports if name in known} | {"websocket": 8080} == ports | {"websocket": 8080}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            handler = pod["containers"][0].get(probe, {})
            targets = [handler[how]["port"] for how in ("httpGet", "tcpSocket") if how in handler]
            assert set(targets) <= named
    for each in of_kind(manifests, "Service"):
        assert {port["targetPort"] for port in each["spec"]["ports"]} <= named
    for each in of_kind(manifests, "NetworkPolicy"):
        rules = [*each["spec"].get("ingress", []), *each["spec"].get("egress", [])]
        assert {port["port"] for rule in rules for port in rule["ports"]} <= named | {53}


def test_mounted_volumes_are_there(manifests: list[Manifest]) -> None:
    for each in of_kind(manifests, "StatefulSet"):
        spec = each["spec"]["template"]["spec"]
        volumes = {volume["name"] for volume in spec["volumes"]}
        claims = {claim["metadata"]["name"] for claim in each["spec"].get("volumeClaimTemplates", [])}
        assert not volumes & claims
        assert {mount["name"] for mount in spec["containers"][0]["volumeMounts"]} == volumes | claims


def test_secrets_that_pods_read_are_made_or_were_named(manifests: list[Manifest]) -> None:
    made = {each["metadata"]["name"]: set(each["data"]) for each in of_kind(manifests, "Secret")}
    given = {"of-mine", "client-tls", "cluster-tls", "models"}
    for _, pod in pods(manifests):
        refs = [entry["valueFrom"]["secretKeyRef"] for entry in pod["containers"][0]["env"] if "secretKeyRef" in str(entry)]
        assert not [ref for ref in refs if ref["name"] not in given and ref["key"] not in made.get(ref["name"], ())]
        volumes = [volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume]
        assert set(volumes) <= given


# --- What the processes are told --------------------------------------------------------------------------------------


def test_brokers_would_start_with_their_environment(manifests: list[Manifest]) -> None:
    stateful = _set(manifests, "broker")
    peers = set()
    for number in range(stateful["spec"]["replicas"]):
        settings = _broker_settings(manifests, number)
        assert settings.host == settings.monitor_host == ANYWHERE
        peers.add((settings.server_name, settings.node_id, settings.peer_advertise, settings.client_advertise))
        for file in (settings.tls_cert, settings.tls_ca, settings.cluster_tls_cert, settings.cluster_tls_ca):
            mounts = [mount["mountPath"] for mount in _container(manifests, "broker")["volumeMounts"]]
            assert not file or str(Path(file).parent) in mounts
    assert len(peers) == stateful["spec"]["replicas"]


def test_meta_nodes_would_start_and_brokers_know_where_they_are(manifests: list[Manifest]) -> None:
    broker = _broker_settings(manifests)
    stateful = next(iter(of_kind(manifests, "StatefulSet", "meta")), None)
    assert bool(broker.node_id) == (stateful is not None)
    for number in range(stateful["spec"]["replicas"] if stateful else 0):
        assert stateful is not None
        env = environment(_container(manifests, "meta"), f"{stateful['metadata']['name']}-{number}")
        assert not [name for name in env if name.removeprefix("MQ9_META_").lower() not in META_FIELDS]
        settings = resolve_meta({}, env)
        members = parse_members(settings)
        assert settings.token
        assert settings.secret
        assert len(members) == stateful["spec"]["replicas"]
        assert [member.api_address for member in members.values()] == meta_addresses(broker)
        domain = f".{stateful['spec']['serviceName']}.agents.svc.cluster.local"
        assert all(member.host == name + domain for name, member in members.items())


def test_settings_of_the_values_arrive(charts: dict[str, list[Manifest]]) -> None:
    settings = _broker_settings(charts["exposed"])
    wanted = EXPOSED["broker"]["settings"]
    assert {name: getattr(settings, name) for name in wanted} == wanted
    assert settings.ws_port == 8080
    assert settings.tls_verify
    assert settings.embedding_key
    meta = resolve_meta({}, environment(_container(charts["exposed"], "meta"), "box-mq9-meta-0"))
    assert (meta.session_s, meta.barrier_s) == (6, 0.25)


def test_there_is_time_to_drain(manifests: list[Manifest]) -> None:
    """SIGKILL comes after the pause before SIGTERM, the lame duck, all that a stop may wait for then, and time for the disk."""
    settings = _broker_settings(manifests)
    spec = _set(manifests, "broker")["spec"]["template"]["spec"]
    command = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert command[0] == "sleep"
    assert int(command[1]) >= 1, "the Services forget the pod while it still takes clients"
    drain_s = int(command[1]) + settings.lame_duck_grace_s + settings.lame_duck_close_s
    stop_s = NOTICE_S + 2 * TOGETHER_S + SETTLE_S + LEAVE_S + FLUSH_S_MAX
    assert spec["terminationGracePeriodSeconds"] >= drain_s + stop_s + DISK_S


def test_secrets_are_in_no_argument_and_no_plain_value(manifests: list[Manifest]) -> None:
    secret = {env for env, field in _secret_names()}
    values = [base64.b64decode(value).decode() for each in of_kind(manifests, "Secret") for value in each["data"].values()]
    for _, pod in pods(manifests):
        (container,) = pod["containers"]
        for entry in container["env"]:
            assert entry["name"] not in secret or "secretKeyRef" in entry["valueFrom"]
        shown = json.dumps({**container, "env": [entry for entry in container["env"] if "value" in entry]})
        assert not [value for value in values if len(value) > 8 and value in shown]


def _secret_names() -> list[tuple[str, str]]:
    brokers = [(f"MQ9_{name.upper()}", name) for name, field in FIELDS.items() if field.metadata["secret"]]
    return brokers + [(f"MQ9_META_{name.upper()}", name) for name, field in META_FIELDS.items() if field.metadata["secret"]]


# --- How they run -----------------------------------------------------------------------------------------------------


def test_pods_have_no_more_rights_than_they_need(manifests: list[Manifest]) -> None:
    for _, pod in pods(manifests):
        assert not pod["automountServiceAccountToken"]
        assert not pod["enableServiceLinks"], "Kubernetes would set MQ9_PORT to tcp://..."
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"]
            assert not context["allowPrivilegeEscalation"]
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert TMP in container["volumeMounts"]


def test_probes(manifests: list[Manifest]) -> None:
    for each in of_kind(manifests, "StatefulSet"):
        container = each["spec"]["template"]["spec"]["containers"][0]
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()
        assert "requests" in container["resources"]
        assert container["readinessProbe"]["httpGet"]["path"] == "/healthz"
        assert container["livenessProbe"]["httpGet"]["path"] != "/healthz", "a restart cures no full disk and no lost majority"


def _selected(manifests: list[Manifest], selector: Manifest) -> set[str]:
    """The roles whose pods a selector finds."""
    assert selector.keys() == {"matchLabels"}
    wanted = selector["matchLabels"].items()
    return {labels[COMPONENT] for labels, _ in pods(manifests) if wanted <= labels.items()}


def _anti_affinity(stateful: Manifest) -> list[Manifest]:
    found = stateful["spec"]["template"]["spec"].get("affinity", {}).get("podAntiAffinity", {})
    preferred = found.get("preferredDuringSchedulingIgnoredDuringExecution", [])
    return [*found.get("requiredDuringSchedulingIgnoredDuringExecution", []), *(each["podAffinityTerm"] for each in preferred)]


def test_what_starts_slowly_is_waited_for(manifests: list[Manifest]) -> None:
    """A store that is checked, or a meta node that takes a snapshot: minutes, before a start counts as failed."""
    for each in of_kind(manifests, "StatefulSet"):
        probe = each["spec"]["template"]["spec"]["containers"][0]["startupProbe"]
        assert probe["failureThreshold"] * probe["periodSeconds"] >= 300


def test_an_update_goes_on_by_itself_and_waits_for_brokers_to_be_in_sync(manifests: list[Manifest]) -> None:
    is_cluster = bool(_broker_settings(manifests).node_id)
    for each in of_kind(manifests, "StatefulSet"):
        assert each["spec"]["updateStrategy"] == {"type": "RollingUpdate"}
    assert _set(manifests, "broker")["spec"].get("minReadySeconds", 0) == (10 if is_cluster else 0)


def test_volumes_outlive_the_release(manifests: list[Manifest]) -> None:
    for each in of_kind(manifests, "StatefulSet"):
        if each["spec"].get("volumeClaimTemplates"):
            assert each["spec"]["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}


def test_what_is_spread_and_what_may_be_taken_away(charts: dict[str, list[Manifest]]) -> None:
    budgets = {role: of_kind(charts["defaults"], "PodDisruptionBudget", role) for role in ("broker", "meta")}
    for role, (budget,) in budgets.items():
        assert budget["spec"]["maxUnavailable"] == 1
        assert _selected(charts["defaults"], budget["spec"]["selector"]) == {role}
    assert len(of_kind(charts["bare"], "PodDisruptionBudget")) == 1
    affinity = {
        (case, role): _set(charts[case], role)["spec"]["template"]["spec"].get("affinity", {}).get("podAntiAffinity", {}).keys()
        for case in ("defaults", "exposed")
        for role in ("meta", "broker")
    }
    soft, hard = {"preferredDuringSchedulingIgnoredDuringExecution"}, {"requiredDuringSchedulingIgnoredDuringExecution"}
    assert affinity == {
        ("defaults", "meta"): soft, ("defaults", "broker"): soft, ("exposed", "broker"): hard, ("exposed", "meta"): set(),
    }  # fmt: skip


def _ways(manifests: list[Manifest], role: str, direction: str) -> dict[tuple[str, str | int], object]:
    """(protocol, port) -> who is there: the roles of pods, "anybody", or peers as the values have them."""
    (policy,) = of_kind(manifests, "NetworkPolicy", role)
    assert _selected(manifests, policy["spec"]["podSelector"]) == {role}
    ways: dict[tuple[str, str | int], object] = {}
    for rule in policy["spec"][direction]:
        peers = rule.get("from" if direction == "ingress" else "to")
        is_of_pods = all(peer.keys() == {"podSelector"} and peer["podSelector"] for peer in peers or ())
        roles = {name for peer in peers or () for name in _selected(manifests, peer["podSelector"])} if is_of_pods else None
        for port in rule["ports"]:
            way = (port.get("protocol", "TCP"), port["port"])
            assert way not in ways, f"{way} twice"
            ways[way] = ANYBODY if peers is None else roles or peers
    return ways


def test_the_network_lets_in_and_out_who_belongs_there(charts: dict[str, list[Manifest]]) -> None:
    cluster = charts["defaults"]
    neighbours: list[Manifest] = [{"podSelector": {}}]
    names: dict[tuple[str, str | int], object] = {("UDP", 53): ANYBODY, ("TCP", 53): ANYBODY}
    assert _ways(cluster, "broker", "ingress") == {
        ("TCP", "client"): ANYBODY, ("TCP", "monitor"): neighbours, ("TCP", "peer"): {"broker"},
    }  # fmt: skip
    assert _ways(cluster, "broker", "egress") == {**names, ("TCP", "peer"): {"broker"}, ("TCP", "api"): {"meta"}}
    assert _ways(cluster, "meta", "ingress") == {
        ("TCP", "api"): {"broker", "meta"}, ("TCP", "raft"): {"meta"}, ("TCP", "monitor"): neighbours,
    }  # fmt: skip
    assert _ways(cluster, "meta", "egress") == {**names, ("TCP", "raft"): {"meta"}, ("TCP", "api"): {"meta"}}
    assert _ways(charts["single"], "broker", "ingress").keys() == {("TCP", "client"), ("TCP", "monitor")}
    assert _ways(charts["single"], "broker", "egress") == names
    exposed = _ways(charts["exposed"], "broker", "ingress")
    assert exposed["TCP", "client"] == exposed["TCP", "websocket"] == EXPOSED["networkPolicy"]["clientFrom"]


def test_pods_keep_away_from_machines_that_have_one_of_their_role(manifests: list[Manifest]) -> None:
    for each in of_kind(manifests, "StatefulSet"):
        for term in _anti_affinity(each):
            assert term["topologyKey"] == "kubernetes.io/hostname"
            assert _selected(manifests, term["labelSelector"]) == {each["metadata"]["labels"][COMPONENT]}


def test_the_network_is_closed_in_both_directions_unless_values_open_it(charts: dict[str, list[Manifest]]) -> None:
    kinds = {case: [each["spec"]["policyTypes"] for each in of_kind(charts[case], "NetworkPolicy")] for case in charts}
    assert kinds == {
        case: {"bare": [], "passwords": [["Ingress"]] * 2}.get(case, [["Ingress", "Egress"]] * (1 if "single" in case else 2))
        for case in CASES
    }


# --- Values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"mode": "both"}, "/mode"),
        ({"meta": {"replicas": 2}}, "/meta/replicas"),
        ({"broker": {"replicas": 0}}, "/broker/replicas"),
        ({"broker": {"settings": {"no_such_setting": 1}}}, "/broker/settings"),
        ({"broker": {"settings": {"token": "in the open"}}}, "/broker/settings"),
        ({"broker": {"settings": {"ack_wait_ms": "long"}}}, "/broker/settings/ack_wait_ms"),
        ({"broker": {"settings": {"naming": "wild"}}}, "/broker/settings/naming"),
        ({"meta": {"settings": {"secret": "in the open"}}}, "/meta/settings"),
        ({"tls": {"client": {"verify": True}}}, "/tls/client/existingSecret"),
        ({"auth": {"mode": "token", "token": "in the open"}}, "/auth"),
        ({"broker": {"persistence": {"size": "big"}}}, "/broker/persistence/size"),
        ({"service": {"port": 70_000}}, "/service/port"),
        ({"image": {"digest": "latest"}}, "/image/digest"),
        ({"typo": 1}, "additional properties 'typo'"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_bad_values_are_refused_by_name(values: dict[str, Any], where: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        rendered(values)
    assert where in str(refusal.value)


def test_helm_finds_nothing_to_say_about_the_chart() -> None:
    assert "0 chart(s) failed" in run(HELM, "lint", str(CHART), "--strict")


def test_the_checker_refuses_what_kubernetes_would() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "a", "image": "a"}]}}
    run(CHECK, "manifests", stdin=json.dumps(pod))
    damages: list[dict[str, Any]] = [{"spec": {"container": []}}, {"kind": "Pot"}, {"spec": {"containers": [{"name": 1}]}}]
    for damage in damages:
        with pytest.raises(RefusedError, match="document 1"):
            run(CHECK, "manifests", stdin=json.dumps({**pod, **damage}))


# --- Secrets that the chart makes -------------------------------------------------------------------------------------


def _data(manifests: list[Manifest]) -> dict[str, str]:
    return {
        f"{each['metadata']['name']}/{key}": value for each in of_kind(manifests, "Secret") for key, value in each["data"].items()
    }


def test_made_secrets_are_long_and_each_its_own() -> None:
    first, second = (_data(rendered({})) for _ in range(2))
    assert first.keys() == second.keys() == {"box-mq9-auth/token", "box-mq9-cluster/cluster-token", "box-mq9-cluster/meta-secret"}
    values = [*first.values(), *second.values()]
    assert len(set(values)) == 6
    assert all(len(base64.b64decode(value)) >= 40 for value in values)


@pytest.mark.parametrize("mode", ["token", "password"])
def test_an_upgrade_keeps_the_secrets_that_are_there(mode: str) -> None:
    values = {"auth": {"mode": mode}}
    installed = of_kind(rendered(values), "Secret")
    with kubernetes(installed) as address:
        upgraded = of_kind(rendered(values, "--dry-run=server", "--is-upgrade", "--kube-apiserver", address), "Secret")
    assert _data(upgraded) == _data(installed)
    assert {each["metadata"]["annotations"]["helm.sh/resource-policy"] for each in upgraded} == {"keep"}
