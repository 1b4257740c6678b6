"""The paper map as a page: ``.. paper-map::`` sets what book/paper_map.yml says, grouped by the paper's sections.

Each entry leads to the equation or figure that teaches it, to the name in the library, and names the tests; the index
lists the numbered ones under "paper". Elsewhere "the paper's eq. 7" leads to its entry here, and so
does a plain "eq. 7" on the pages of the library.
"""

import re
import sys
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))
import paper_map

PAGE = "book/paper_map"
UNLINKED = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.reference, nodes.title)


def rst(text):
    """MyST's dollars as a role."""
    return re.sub(r"\$([^$]+)\$", r":math:`\1`", text)


class PaperMap(SphinxDirective):
    def run(self):
        root = Path(self.env.app.srcdir)
        self.env.note_dependency(str(root / paper_map.FILE))
        found = []
        for part in paper_map.load(root):
            title = str(part["title"])
            name = title if title.startswith("Appendix") else f"Section {part['section']}: {title}"
            section = nodes.section(ids=[f"paper-section-{str(part['section']).replace('.', '-').lower()}"])
            section += nodes.title(name, name)
            lines = [line for entry in part["entries"] for line in self.entry(entry)]
            self.state.nested_parse(StringList(lines, paper_map.FILE), 0, section)
            found.append(section)
        std = self.env.get_domain("std")
        for _, entry in paper_map.entries(paper_map.load(root)):  # what eval-rst parses registers no labels
            name = f"paper-{entry['id']}"
            std.labels[name] = (self.env.docname, name, f"the paper's {entry['paper']}")
            std.anonlabels[name] = (self.env.docname, name)
        return found

    def entry(self, entry):
        says = rst(str(entry["says"]))
        lines = [f".. container:: sdelib-paper {'sdelib-paper-comes' if 'comes' in entry else ''}"]
        lines += [f"   :name: paper-{entry['id']}", ""]
        indexed = [f".. index:: single: paper; {entry['paper']}", ""] if entry["id"] in paper_map.NUMBERED else []
        body = [*indexed, f"**{entry['paper'].capitalize()}.** {says}", ""]
        if "formula" in entry:
            body += [f".. math:: {entry['formula']}", ""]
        rows = [("Page", self.pages(entry)), ("Library", self.names(entry)), ("Tests", self.tests(entry))]
        for title, said in rows:
            if said:
                body += [f":{title}: {said}"]
        return [*lines, *(f"   {line}" for line in body), ""]

    def pages(self, entry):
        there = {paper_map.chapter_of(name.rpartition("/")[2].partition("_")[0]) for name in self.env.found_docs}
        links = [link(label) for label in entry.get("book", []) if paper_map.chapter_of(label) in there]
        come = [f"to come in chapter {entry['comes']}"] if "comes" in entry else []
        return ", ".join(links + come)

    def names(self, entry):
        # a role would show the whole path
        return ", ".join(f":py:obj:`{name} <{paper_map.entry_of(name)}>`" for name in entry.get("code", []))

    def tests(self, entry):
        files = {}
        for test in entry.get("tests", []):
            file, _, name = test.partition("::")
            files.setdefault(file, []).append(name.removeprefix("test_").replace("_", " "))
        return "; ".join(f"``{file}``: {', '.join(names)}" for file, names in files.items())


def link(label):
    kind = label.partition("-")[0]
    if kind == "eq":
        return f"equation :eq:`{label}`"
    if kind == "fig":
        return f":numref:`figure %s <{label}>`"
    if kind == "ex":
        return f":ref:`exercise <{label}>`"
    return f":ref:`chapter {int(label[2:])} <{label}>`"


class EquationLinks(SphinxPostTransform):
    """Where a page names an equation of the paper by the paper's number, lead to the map."""

    default_priority = 30

    def run(self, **kwargs):
        if PAGE not in self.env.found_docs:
            return
        plain = self.env.docname.startswith("book/api/")
        pattern = re.compile(r"\beq\. (\d+)" if plain else r"(?<=paper['’]s )eq\. (\d+)")
        uri = self.app.builder.get_relative_uri(self.env.docname, PAGE)
        for text in list(self.document.findall(nodes.Text)):
            inside = text.parent
            if isinstance(inside, UNLINKED):
                continue
            parts, end = [], 0
            for found in pattern.finditer(text.astext()):
                parts.append(nodes.Text(text.astext()[end : found.start()]))
                anchor = nodes.reference("", found[0], internal=True, refuri=f"{uri}#paper-eq-{found[1]}")
                parts.append(anchor)
                end = found.end()
            if parts:
                inside.replace(text, [*parts, nodes.Text(text.astext()[end:])])


def setup(app):
    app.add_directive("paper-map", PaperMap)
    app.add_post_transform(EquationLinks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
