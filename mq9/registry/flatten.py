"""From a registered body to the texts that are searched: name, description, tags, skills, and every other string in it.

A body may be an A2A AgentCard of protocol 0.2, 0.3 or 1.0, carry one in `agent_card` or in `payload` (as an object or as
a JSON string), list MCP tools, or be any other JSON object. All of them end up in one `CardText`. The walk is bounded in
depth, strings and characters, so that no body costs more than a large honest card.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from mq9.errors import error
from mq9.limits import JSON_DEPTH_MAX

STRINGS_MAX: Final = 5_000  # string leaves looked at
CHARS_MAX: Final = 128 * 1024  # characters of all texts together that are searched
LEAF_CHARS_MAX: Final = 8 * 1024  # of one string
SKILLS_MAX: Final = 256
SKILL_EXAMPLES_MAX: Final = 8
TAGS_MAX: Final = 128
TAG_CHARS_MAX: Final = 128
TAGS_CHARS_MAX: Final = TAGS_MAX * TAG_CHARS_MAX  # of a comma list
UNBROKEN_CHARS_MAX: Final = 256  # a longer run without a space is data (base64, a key), not words

_CARD_KEYS: Final = ("agent_card", "agentCard", "card")
_SKILL_KEYS: Final = ("skills", "tools", "functions", "abilities", "capabilities")
_TAG_KEYS: Final = ("tags", "keywords", "labels", "categories")
_NAME_KEYS: Final = ("name", "title", "id")
_DESCRIPTION_KEYS: Final = ("description", "summary", "desc")
# What these hold is not what an agent is asked for, and would make every agent of one host or one format look alike.
_SILENT_TEXT: Final = """
    url uri icon_url iconurl mailbox mailbox_uri signatures security securityschemes securityrequirements inputmodes
    outputmodes defaultinputmodes defaultoutputmodes protocolversion protocolbinding preferredtransport
    additionalinterfaces supportedinterfaces inputschema outputschema $schema status state version ttl
"""
_SILENT_KEYS: Final = frozenset(_SILENT_TEXT.split())

_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+|\n|(?<=[。！？])")


@dataclass(frozen=True, slots=True)
class SkillText:
    """One thing an agent can do."""

    name: str
    description: str
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CardText:
    """What of an agent is searched. `other` is every string that is none of the rest, joined by newlines."""

    name: str
    description: str = ""
    tags: tuple[str, ...] = ()
    skills: tuple[SkillText, ...] = ()
    other: str = ""


@dataclass(slots=True)
class _Budget:
    """What is left of the bounds while one body is walked."""

    chars: int = CHARS_MAX
    strings: int = STRINGS_MAX
    seen: set[str] = field(default_factory=set)

    def take(self, value: object) -> str:
        """`value` as searchable text, or "" when it is none, known already, or over the bounds."""
        if not isinstance(value, str) or self.strings <= 0 or self.chars <= 0:
            return ""
        self.strings -= 1
        text = value[: min(LEAF_CHARS_MAX, self.chars)].strip()
        if not text or text in self.seen or _is_data(text):
            return ""
        self.seen.add(text)
        self.chars -= len(text)
        return text


def check_depth(value: object, depth_max: int = JSON_DEPTH_MAX) -> None:
    """Raise INVALID_REQUEST when objects and lists are nested deeper than `depth_max`."""
    if _is_deeper(value, depth_max):
        raise error("INVALID_REQUEST", reason=f"JSON is nested deeper than {depth_max}")


def flatten(name: str, body: dict[str, Any]) -> CardText:
    """The texts of the agent `name` registered with `body`. Never raises: what is not understood is plain text."""
    budget = _Budget()
    budget.seen.add(name)
    sources = [*_cards(body), body]
    description = next((text for source in sources if (text := _first(source, _DESCRIPTION_KEYS, budget))), "")
    payload = body.get("payload")
    if isinstance(payload, str) and parse_object(payload) is None:
        spoken = budget.take(payload)
        description = f"{description}\n{spoken}".strip() if spoken else description
    tags = _tags(sources)
    skills = _skills(sources, budget)
    other = "\n".join(text for source in sources for text in _leaves(source, budget))
    return CardText(name, description, tags, skills, other)


def tags_of(body: dict[str, Any]) -> tuple[str, ...]:
    """Every tag of an agent: its own, its card's and its skills', as written, each once."""
    sources = [*_cards(body), body]
    found = dict.fromkeys(_tags(sources))
    for source in sources:
        for item in _skill_items(source):
            if isinstance(item, dict):
                found.update(dict.fromkeys(_tags([item])))
    return tuple(found)[:TAGS_MAX]


def card_of(body: dict[str, Any]) -> dict[str, Any] | None:
    """The AgentCard a body carries in a field of its own, if it does."""
    return next(iter(_cards(body)), None)


def first_sentence(text: str) -> str:
    """The first sentence or line: tools say there what they do, and then how their arguments are called."""
    return _SENTENCE_END.split(text.strip(), maxsplit=1)[0].strip()


def parse_object(text: str) -> dict[str, Any] | None:
    """The JSON object in `text`, or None when it is not one (or is one nobody should walk)."""
    if text.lstrip()[:1] != "{":
        return None
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return value if isinstance(value, dict) and not _is_deeper(value, JSON_DEPTH_MAX) else None


def _cards(body: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for key in (*_CARD_KEYS, "payload"):
        value = body.get(key)
        if isinstance(value, str):
            value = parse_object(value)
        if isinstance(value, dict):
            found.append(value)
    return found


def _is_deeper(value: object, depth_max: int) -> bool:
    level: list[object] = [value]
    for _ in range(depth_max):
        level = [child for node in level for child in _children(node)]
        if not level:
            return False
    return True


def _children(node: object) -> Iterator[object]:
    """The containers inside a container."""
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return (child for child in inner if isinstance(child, (dict, list)))


def _first(source: dict[str, Any], keys: tuple[str, ...], budget: _Budget) -> str:
    return next((text for key in keys if (text := budget.take(source.get(key)))), "")


def _is_data(text: str) -> bool:
    return len(text) > UNBROKEN_CHARS_MAX and text.isascii() and max(map(len, text.split())) > UNBROKEN_CHARS_MAX


def _tags(sources: list[dict[str, Any]]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for source in sources:
        for key in _TAG_KEYS:
            value = source.get(key)
            items = value[:TAGS_CHARS_MAX].split(",") if isinstance(value, str) else value if isinstance(value, list) else ()
            cleaned = (item.strip()[:TAG_CHARS_MAX] for item in items[: 2 * TAGS_MAX] if isinstance(item, str))
            found.update(dict.fromkeys(tag for tag in cleaned if tag))
    return tuple(found)[:TAGS_MAX]


def _skill_items(source: dict[str, Any]) -> list[Any]:
    """The entries of every list of skills. A2A's `capabilities` is an object of switches: no list, so no skills."""
    return [item for key in _SKILL_KEYS if isinstance(items := source.get(key), list) for item in items[:SKILLS_MAX]]


def _skills(sources: list[dict[str, Any]], budget: _Budget) -> tuple[SkillText, ...]:
    found = []
    for source in sources:
        for item in _skill_items(source):
            skill = _skill(item, budget)
            if skill is not None:
                found.append(skill)
    return tuple(found[:SKILLS_MAX])


def _skill(item: object, budget: _Budget) -> SkillText | None:
    if isinstance(item, str):
        text = budget.take(item)
        return SkillText("", text) if text else None
    if not isinstance(item, dict):
        return None
    # A tool of OpenAI's form keeps its name and description one level further down.
    inner = item.get("function")
    if isinstance(inner, dict):
        item = inner
    # Names are short and shared by many tools (`search`): they do not pass the test for what was seen before.
    name = next((value.strip()[:LEAF_CHARS_MAX] for key in _NAME_KEYS if isinstance(value := item.get(key), str)), "")
    description = _first(item, _DESCRIPTION_KEYS, budget)
    examples = item.get("examples")
    items = examples[:SKILL_EXAMPLES_MAX] if isinstance(examples, list) else ()
    taken = tuple(text for example in items if (text := budget.take(example)))
    if not name and not description and not taken:
        return None
    return SkillText(name, " ".join(part for part in (description, *_tags([item])) if part), taken)


def _leaves(source: dict[str, Any], budget: _Budget) -> Iterator[str]:
    """Every string not taken before, in order, except under keys that describe how and not what."""
    stack: list[object] = [source]
    while stack and budget.strings > 0 and budget.chars > 0:
        node = stack.pop()
        if isinstance(node, dict):
            stack.extend(value for key, value in reversed(node.items()) if str(key).lower() not in _SILENT_KEYS)
        elif isinstance(node, list):
            stack.extend(reversed(node))
        elif (text := budget.take(node)) and parse_object(text) is None:
            yield text
