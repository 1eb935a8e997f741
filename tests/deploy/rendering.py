"""The chart rendered by the real Helm, the compose file read by Compose's own loader; both are built from Go modules once.

Compiling Helm takes a minute or two, so that tests that need it are `heavy` until it is built on a machine (make test CI=1), and
take seconds, with all others, from then on.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from tests.interop.programs import Program, is_built, prepare

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "mq9"
TOOLS = Path(__file__).parent / "tools"
RUN_TIMEOUT_S = 60
KUBERNETES = "1.34"  # what the charts are rendered for; a Helm that is built without saying so takes itself for an old one
Manifest = dict[str, Any]

_VERSION = " ".join(
    f"-X helm.sh/helm/v3/pkg/{package}.k8sVersion{part}={number}"
    for package in ("chartutil", "lint/rules")
    for part, number in zip(("Major", "Minor"), KUBERNETES.split("."), strict=True)
)
HELM = Program(
    "helm",
    "helm",
    ("go",),
    (("go", "mod", "download"),),
    (("go", "build", "-ldflags", _VERSION, "-o", "{build}/helm", "helm.sh/helm/v3/cmd/helm"),),
    ("{build}/helm",),
    root=TOOLS,
)
CHECK = Program(
    "the checker of manifests and compose files",
    "check",
    ("go",),
    (("go", "mod", "download"),),
    (("go", "build", "-o", "{build}/check", "."),),
    ("{build}/check",),
    root=TOOLS,
)
BUILDS_TOOLS = [pytest.mark.timeout(1200), *([] if is_built(HELM) and is_built(CHECK) else [pytest.mark.heavy])]
"""Marks of tests that run one of them."""
Test = TypeVar("Test", bound=Callable[..., Any])


def builds_tools(test: Test) -> Test:
    """The same marks, for one test."""
    for mark in BUILDS_TOOLS:
        test = mark(test)
    return test


class RefusedError(Exception):
    """What a tool said when it refused what it was given."""


def run(program: Program, *arguments: str, stdin: str = "", home: Path | None = None, **environ: str) -> str:
    """What the tool prints. Raises RefusedError with what it says on standard error."""
    env = {"PATH": os.environ["PATH"], "HOME": str(home or "/nonexistent"), **environ}
    done = subprocess.run(
        [*prepare(program), *arguments], input=stdin, capture_output=True, text=True, env=env, timeout=RUN_TIMEOUT_S, cwd=ROOT,
        check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RefusedError(done.stderr)
    return done.stdout


def rendered(values: Manifest, *arguments: str, release: str = "box", namespace: str = "agents") -> list[Manifest]:
    """Every manifest of the chart with these values, after the strict checker has taken them all."""
    text = run(
        HELM, "template", release, str(CHART), "--namespace", namespace, "--values", "-", *arguments, stdin=json.dumps(values)
    )
    run(CHECK, "manifests", stdin=text)
    return [document for document in yaml.safe_load_all(text) if document]


def of_kind(manifests: Sequence[Manifest], kind: str, component: str = "") -> list[Manifest]:
    """Those of a kind, and of a component if one is named."""
    return [
        each
        for each in manifests
        if each["kind"] == kind and component in ("", each["metadata"]["labels"]["app.kubernetes.io/component"])
    ]


def pods(manifests: Sequence[Manifest]) -> Iterator[tuple[Manifest, Manifest]]:
    """(labels, spec) of every pod, also of those that StatefulSets make."""
    for each in manifests:
        if each["kind"] == "StatefulSet":
            template = each["spec"]["template"]
            yield template["metadata"]["labels"], template["spec"]
        elif each["kind"] == "Pod":
            yield each["metadata"]["labels"], each["spec"]


def environment(container: Manifest, pod_name: str) -> dict[str, str]:
    """The environment as the kubelet would make it: fields and Secrets filled in, $(NAME) replaced by what came before."""
    env: dict[str, str] = {}
    for entry in container["env"]:
        source = entry.get("valueFrom", {})
        value = pod_name if "fieldRef" in source else "a secret" if "secretKeyRef" in source else entry["value"]
        for name, known in env.items():
            value = value.replace(f"$({name})", known)
        assert entry["name"] not in env, f"{entry['name']} twice"
        env[entry["name"]] = value
    return env
