"""Mend what stands between a page and a screen reader, where the tools that write the page leave it wrong.

* MyST-NB calls every folded cell "Toggle hidden content", which hides the words that it shows ("Show code cell source").
* Sphinx sets a long signature's parameters as a list of definitions without terms.
* docutils gives a bibliography the role ``list`` and its entries a role that a list may not hold.

What only a script can know (which box scrolls) is in ``book/_static/access.js``.
"""

import re

PARAMETERS = re.compile(r'(<span class="sig-paren">[(\[]</span>\s*)<dl>(.*?)</dl>', re.DOTALL)
REPLACED = {
    '<summary aria-label="Toggle hidden content">': "<summary>",
    'role="doc-biblioentry"': 'role="listitem"',
}


def plain_parameters(found):
    rows = found[2].replace("<dd>", "<div>").replace("</dd>", "</div>")
    return f'{found[1]}<div class="sig-params">{rows}</div>'


def mend(app, pagename, templatename, context, doctree):
    body = context.get("body")
    if body:
        for old, new in REPLACED.items():
            body = body.replace(old, new)
        context["body"] = PARAMETERS.sub(plain_parameters, body)


def setup(app):
    app.connect("html-page-context", mend)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
