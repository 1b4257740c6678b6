"""A chapter's number is the one in its file name, whatever its place in the table of contents.

Sphinx numbers chapters as they come. Chapters here are written out of order (14 before 8) and keep their numbers: after
Sphinx has counted, this replaces the leading number of every section, figure, equation and exercise of
``notebooks/chNN_...`` by NN. Pages without a number in their name keep what Sphinx gave them.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

CHAPTER = re.compile(r"(?:^|/)ch(\d+)_")


def chapter_number(docname: str) -> int | None:
    """14 for ``notebooks/ch14_architectures``; ``None`` for a page that is no chapter."""
    found = CHAPTER.search(docname)
    return int(found.group(1)) if found else None


def renumber(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Replace the first number wherever Sphinx keeps one."""
    changed = []
    for docname, sections in env.toc_secnumbers.items():
        number = chapter_number(docname)
        if number is None or not sections or next(iter(sections.values()))[0] == number:
            continue
        changed.append(docname)
        for anchor, old in sections.items():
            sections[anchor] = (number, *old[1:])
        for counters in env.toc_fignumbers.get(docname, {}).values():
            for label, old in counters.items():
                counters[label] = (number, *old[1:])
    holders: list[nodes.Element] = [*env.tocs.values(), *env.titles.values(), *env.longtitles.values()]
    for holder in holders:
        for node in [holder, *holder.findall(nodes.reference)]:
            docname = node.get("refuri") if isinstance(node, nodes.reference) else None
            number = chapter_number(docname) if docname else None
            if number is not None and node.get("secnumber"):
                node["secnumber"] = (number, *node["secnumber"][1:])
    for docname, title in env.titles.items():
        number = chapter_number(docname)
        if number is not None and title.get("secnumber"):
            title["secnumber"] = (number, *title["secnumber"][1:])
    return changed


def setup(app: Sphinx) -> dict[str, Any]:
    """Run after Sphinx's own counting (priority 500)."""
    app.connect("env-get-updated", renumber, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
