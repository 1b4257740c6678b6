"""Keep punctuation with its formula: a browser may break a line between an inline formula and the comma after it."""

import re

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

CLOSING = re.compile(r"[.,;:!?)\]’”%]+(?:-\w+)?|-\w+")
OPENING = re.compile(r"[(\[‘“]+$")


class GlueFormulas(SphinxPostTransform):
    """Wrap an inline formula and the punctuation that touches it in a span that does not break."""

    default_priority = 900

    def run(self, **kwargs):
        for math in list(self.document.findall(nodes.math)):
            parent = math.parent
            i = parent.index(math)
            before = parent[i - 1] if i and isinstance(parent[i - 1], nodes.Text) else None
            after = parent[i + 1] if i + 1 < len(parent) and isinstance(parent[i + 1], nodes.Text) else None
            opening = OPENING.search(before.astext()) if before is not None else None
            closing = CLOSING.match(after.astext()) if after is not None else None
            if opening is None and closing is None:
                continue
            glued = nodes.inline(classes=["sdelib-glued"])
            parts = []
            if opening is not None:
                parts.append(nodes.Text(before.astext()[: opening.start()]))
                glued += nodes.Text(opening[0])
            glued += math.deepcopy()
            if closing is not None:
                glued += nodes.Text(closing[0])
            parts.append(glued)
            if closing is not None:
                parts.append(nodes.Text(after.astext()[closing.end() :]))
            start, stop = i - (opening is not None), i + 1 + (closing is not None)
            parent[start:stop] = [p for p in parts if not isinstance(p, nodes.Text) or p.astext()]


def setup(app):
    app.add_post_transform(GlueFormulas)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
