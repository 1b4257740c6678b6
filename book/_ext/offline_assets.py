"""Keep every page from asking another machine for anything.

Jupyter Book loads sphinx_thebe, which writes the address of a script host into each page (twice, so that the
console reports a redeclared constant) although the book offers no remote kernels. Its listeners are detached here.
MathJax and the widget manager come from ``book/_static/vendor`` through ``_config.yml``.
"""


def detach_thebe(app):
    for listeners in app.events.listeners.values():
        listeners[:] = [entry for entry in listeners if not entry.handler.__module__.startswith("sphinx_thebe")]


def setup(app):
    app.connect("builder-inited", detach_thebe, priority=0)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
