"""The register of claims as a page, and links of the form ``[1.0526](claim:1.3-langevin-bias)``.

``{claims-register}`` sets one table per chapter from the records stored in the notebooks. A ``claim:`` link leads to
the claim's row; where no notebook stores the claim, the link is a warning, which fails the build.
"""

import sys
from pathlib import Path

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))
from claims import collect, sdelib_claims

logger = logging.getLogger(__name__)
PAGE = "book/claims"
COLUMNS = (("Claim", 34), ("Measured", 12), ("Expected", 20), ("Why this tolerance", 20), ("Source", 14))


def read_register(app):
    app.sdelib_claims, problems = collect(Path(app.srcdir))
    for problem in problems:
        logger.warning(problem, type="claims", subtype="record")


class ClaimsRegister(SphinxDirective):
    def run(self):
        stored = self.env.app.sdelib_claims
        for path in sorted(Path(self.env.app.srcdir, "notebooks").glob("*.ipynb")):
            self.env.note_dependency(str(path))
        if not stored:
            return [nodes.paragraph(text="No chapter has been executed yet.")]
        return [self.chapter([s for s in stored if s.stem == stem]) for stem in dict.fromkeys(s.stem for s in stored)]

    def chapter(self, stored):
        page = f"notebooks/{stored[0].stem}"
        number = stored[0].claim.id.split(".")[0]
        section = nodes.section(ids=[f"claims-chapter-{number}"], names=[f"claims-chapter-{number}"])
        section += nodes.title("", f"Chapter {number}: {stored[0].chapter}")
        table = nodes.table(classes=["sdelib-register"])
        group = nodes.tgroup(cols=len(COLUMNS))
        table += group
        for _, width in COLUMNS:
            group += nodes.colspec(colwidth=width)
        head = nodes.row()
        for name, _ in COLUMNS:
            entry = nodes.entry()
            entry += nodes.paragraph(text=name)
            head += entry
        group += nodes.thead("", head)
        body = nodes.tbody()
        group += body
        for s in stored:
            body += self.row(page, s.claim)
        section += table
        return section

    def row(self, page, claim):
        row = nodes.row(ids=[sdelib_claims.anchor(claim.id)])
        expected = claim.expected.removeprefix("truth ")
        first = nodes.paragraph("", claim.statement + " ")
        uri = self.env.app.builder.get_relative_uri(self.env.docname, page) + "#" + sdelib_claims.anchor(claim.id)
        link = nodes.reference("", "", internal=True, refuri=uri, classes=["sdelib-register-id"])
        link += nodes.inline("", claim.id)
        first += link
        cells = [first, *(nodes.paragraph(text=t) for t in (claim.measured, expected, claim.because, claim.source))]
        for cell in cells:
            entry = nodes.entry()
            entry += cell
            row += entry
        return row


class ClaimLinks(SphinxPostTransform):
    """Point ``claim:`` links at the register, before Sphinx looks for a label of that name."""

    default_priority = 5

    def run(self, **kwargs):
        known = {s.claim.id: s.claim for s in self.app.sdelib_claims}
        # MyST keeps an unknown scheme as a cross-reference, to be resolved like a label
        for node in list(
            self.document.findall(lambda n: isinstance(n, nodes.Element) and target(n).startswith("claim:"))
        ):
            id = target(node).removeprefix("claim:")
            if id not in known:
                logger.warning("no notebook stores the claim %r", id, location=node, type="claims", subtype="reference")
                node.replace_self(nodes.inline("", "", *node.children))
                continue
            node.replace_self(self.link(known[id], *[c.deepcopy() for c in node.children]))
        for node in list(self.document.findall(nodes.raw)):
            if 'class="sdelib-claim"' in node.astext():
                self.link_back(node, known)

    def link(self, claim, *children):
        uri = self.app.builder.get_relative_uri(self.env.docname, PAGE) + "#" + sdelib_claims.anchor(claim.id)
        return nodes.reference(
            "", "", *children, internal=True, refuri=uri, classes=["sdelib-claim-link"], reftitle=claim.text
        )

    def link_back(self, node, known):
        """Make the id in a claim's line a link to its row of the register."""
        text = node.astext()
        for id in known:
            mark = f'<span class="sdelib-claim-id">✓ {id}</span>'
            if mark in text and PAGE in self.env.found_docs:
                uri = self.app.builder.get_relative_uri(self.env.docname, PAGE) + "#" + sdelib_claims.anchor(id)
                linked = f'<a class="sdelib-claim-id" href="{uri}" title="in the register of claims">✓ {id}</a>'
                new = nodes.raw("", text.replace(mark, linked), format="html")
                node.replace_self(new)
                return


def target(node):
    return str(node.get("reftarget") or node.get("refuri") or "")


def setup(app):
    app.connect("builder-inited", read_register)
    app.add_directive("claims-register", ClaimsRegister)
    app.add_post_transform(ClaimLinks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
