"""What we lean on inside PySyncObj is what we read in it: a change of any of it fails here, before it does harm.

When PySyncObj is to be raised: read its changes, then raft.py against the methods below, run the long tests, and only then
write the new digests down (docs/decisions/0008-pysyncobj.md).
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from pathlib import Path

import pysyncobj.syncobj
import pytest
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from meta_service import raft
from meta_service.contracts import LEANED_ON, SUPPORTED_VERSION

# Every method of SyncObj that raft.py calls, is called by, or takes the place of, as it was read: SHA-256 of its code.
READ = {
    "__init__": "33d47b7c8a3e6ea0",
    "_applyCommand": "df2b7bbc8e0936ac",
    "_checkCommandsToApply": "ad574f6c9b0e29f6",
    "_onTick": "7f2edadc80a99f85",
    "transferLeadership": "51ae870eb82fc891",
    "_SyncObj__applyLogEntries": "c1ba48829de6d1eb",
    "_SyncObj__connectedToAnyone": "b33ce21115312751",
    "_SyncObj__doApplyCommand": "e5f613e686f0675a",
    "_SyncObj__generateRaftTimeout": "56d7b0c81dde2852",
    "_SyncObj__getCurrentLogIndex": "40c748188548e7ca",
    "_SyncObj__getCurrentLogTerm": "51630abb8e558be5",
    "_SyncObj__getEntries": "fc1e9fa4f769b5f5",
    "_SyncObj__onBecomeLeader": "109c7ae10b81f8ff",
    "_SyncObj__onLeaderChanged": "54e72679dd0fadf3",
    "_SyncObj__onMessageReceived": "6c0e8e2e82c56aab",
    "_SyncObj__onNodeConnected": "0ea3781afe402368",
    "_SyncObj__onNodeDisconnected": "d6ee2762b7bdaeb7",
    "_SyncObj__sendAppendEntries": "61de49dddb7ccd5a",
    "_SyncObj__setCurrentTerm": "9a1f36263b3bcefb",
    "_SyncObj__setState": "83cc044d17bbbd12",
    "_SyncObj__tryLogCompaction": "dc1a1557d9296b91",
}


def digest(name: str) -> str:
    tree = ast.parse(textwrap.dedent(inspect.getsource(getattr(SyncObj, name))))
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", sorted(READ))
def test_a_method_we_lean_on_is_the_one_we_read(name: str) -> None:
    assert digest(name) == READ[name]


def test_the_pinned_version_is_the_one_we_read() -> None:
    requirement = f'"pysyncobj=={SUPPORTED_VERSION}"'
    assert requirement in (Path(__file__).parents[2] / "pyproject.toml").read_text()


def test_every_private_name_in_raft_is_listed_and_exists() -> None:
    source = inspect.getsource(raft)
    used = {
        node.attr if isinstance(node, ast.Attribute) else node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute | ast.FunctionDef)
    }
    private = {name.removeprefix("_SyncObj__") for name in used if name.startswith("_SyncObj__")}
    assert private == {name for names in LEANED_ON.values() for name in names}
    conf = SyncObjConf(autoTick=False)
    stock = SyncObj(Node("a"), [], conf, transport=Transport(None, None, None))
    for name in (name for names in LEANED_ON.values() for name in names):
        assert hasattr(stock, f"_SyncObj__{name}"), name


def test_nothing_is_unpickled_on_our_paths() -> None:
    """The places where PySyncObj unpickles are those we replaced, or never reach."""
    ours = {"__sendAppendEntries", "__doApplyCommand", "__tryLogCompaction"}  # replaced in raft.py
    unreached = {
        "__parseChangeClusterRequest",  # only with dynamicMembershipChange, which is off, and from __doApplyCommand
        "__onMessageReceived",  # only of append_entries, which never gets there
        "setCodeVersion", "addNodeToCluster", "removeNodeFromCluster",  # utility messages, which have no frame
        "newFunc", "replicatedImpl", "replicated",  # replicated methods, of which there are none
    }  # fmt: skip
    tree = ast.parse(inspect.getsource(pysyncobj.syncobj))
    pickling = {
        function.name
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle"
    }
    assert pickling <= ours | unreached
