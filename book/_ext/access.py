"""Mend what stands between a page and a screen reader, where the tools that write the page leave it wrong.

* MyST-NB calls every folded cell "Toggle hidden content", which hides the words that it shows ("Show code cell source").
* docutils gives a bibliography the role ``list`` and its entries a role that a list may not hold.

What only a script can know (which box scrolls) is in ``book/_static/access.js``.
"""

REPLACED = {
    '<summary aria-label="Toggle hidden content">': "<summary>",
    'role="doc-biblioentry"': 'role="listitem"',
}


def mend(app, pagename, templatename, context, doctree):
    body = context.get("body")
    if body:
        for old, new in REPLACED.items():
            body = body.replace(old, new)
        context["body"] = body


def setup(app):
    app.connect("html-page-context", mend)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
