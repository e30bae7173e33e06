"""Read the Markdown files of the project: console blocks, code spans, headings and links."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)  # indented in lists
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_SPAN = re.compile(r"`([^`\n]+)`")
_GENERATED = {"var", "staticfiles", "node_modules"}


def pages() -> list[Path]:
    paths = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _GENERATED]
        paths += [Path(folder, name) for name in names if name.endswith(".md")]
    return sorted(paths)


def console_blocks(text: str) -> list[str]:
    return [dedent(code) for _, language, code in FENCE.findall(text) if language == "console"]


def console_lines() -> Iterator[tuple[str, str]]:
    """Yield page and command of each line of all console blocks. A continued line is one command."""
    for page in pages():
        for block in console_blocks(page.read_text()):
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                yield str(page.relative_to(ROOT)), line


def commands(text: str) -> list[str]:
    """Return all console blocks and all code spans."""
    return [*console_blocks(text), *_SPAN.findall(FENCE.sub("", text))]


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub makes of the headings."""
    slugs = [
        re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        for heading in _HEADING.findall(FENCE.sub("", text))
    ]
    repeated = {f"{slug}-{count}" for slug in slugs for count in range(1, slugs.count(slug))}
    return {*slugs, *repeated}


def links(text: str) -> Iterator[tuple[str, str]]:
    """Yield path and anchor of each link inside the project. The path is empty for a link to the same page."""
    for target in _LINK.findall(FENCE.sub("", text)):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield path, anchor
