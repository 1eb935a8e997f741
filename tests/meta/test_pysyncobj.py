"""What we lean on inside PySyncObj is what we read in it: a change of any of it fails here, before it does harm.

When PySyncObj is to be raised: read its changes, then raft.py against the methods below, run the long tests, and only then
write the new digests down (docs/decisions/0008-pysyncobj.md).
"""

from __future__ import annotations

import ast
import hashlib
import inspect
from pathlib import Path

import pysyncobj.syncobj
import pytest
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from meta_service import raft
from meta_service.contracts import LEANED_ON, SUPPORTED_VERSION

# Every method of SyncObj that raft.py calls, is called by, or takes the place of, as it was read: SHA-256 of its
# text without blanks, which is the same for every Python.
READ = {
    "__init__": "7a10d3be4bb872e7",
    "_applyCommand": "4d3b3ca6dac98e39",
    "_checkCommandsToApply": "5dffe9f21890fec9",
    "_onTick": "b2e1201e80b05feb",
    "transferLeadership": "30098c19daa73b9e",
    "_SyncObj__applyLogEntries": "6033cc86451d2b94",
    "_SyncObj__connectedToAnyone": "be53a01ac973fd40",
    "_SyncObj__doApplyCommand": "d3aa39e4aeabb742",
    "_SyncObj__generateRaftTimeout": "f3e18b239c796120",
    "_SyncObj__getCurrentLogIndex": "4993cb635fdec5fe",
    "_SyncObj__getCurrentLogTerm": "c5c823af9d35ecee",
    "_SyncObj__getEntries": "0315fd473f8999fb",
    "_SyncObj__onBecomeLeader": "a922439353a40ffb",
    "_SyncObj__onLeaderChanged": "d86355fbef24fb8d",
    "_SyncObj__onMessageReceived": "bc628a59eb83b77d",
    "_SyncObj__onNodeConnected": "ba439aacb12b4b56",
    "_SyncObj__onNodeDisconnected": "798765317a266751",
    "_SyncObj__sendAppendEntries": "374e3d26242fbf89",
    "_SyncObj__setCurrentTerm": "bfaa7e5a46ae34fd",
    "_SyncObj__setState": "156d01221f08d4e9",
    "_SyncObj__tryLogCompaction": "ceb716f5381e206a",
}


def digest(name: str) -> str:
    source = inspect.getsource(getattr(SyncObj, name))
    return hashlib.sha256("".join(source.split()).encode()).hexdigest()[:16]


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
