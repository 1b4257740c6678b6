"""Reference pages from the docstrings of sdelib, and links from code words to them.

``.. api-module:: sdelib.sde`` sets a module's opening text and one entry for each of its public names, under the name by
which a reader imports it; ``.. api-names::`` a table of all of them. Docstrings are written to be read in a terminal, so
bars and stars that mean nothing to Sphinx are escaped here, and signatures show annotations as the source writes them.

On every other page a code word that is a public name, ``time_grid`` or ``simulate(step, x, times)``, leads to its entry,
the first time that a section uses it. Nothing needs to be marked in the text.
"""

import importlib
import inspect
import re
import sys
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective
from sphinx.util.inspect import stringify_annotation, stringify_signature
from sphinx.util.nodes import make_refnode

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))
import reference

# ---------------------------------------------------------------- docstrings
KEPT = re.compile(r"``.+?``|:[\w:]+:`[^`]+`|`[^`]+`_|\*\*[^*\s][^*]*\*\*|(?<![\w*)])\*[A-Za-z][A-Za-z -]*\*(?![\w*])")


def escape(text):
    """Quote what a terminal shows as it is and Sphinx would take for mark-up."""
    parts, end = [], 0
    for kept in KEPT.finditer(text):
        parts += [quote(text[end : kept.start()]), kept[0]]
        end = kept.end()
    return "".join([*parts, quote(text[end:])])


def quote(text):
    text = re.sub(r"[|*]", lambda m: "\\" + m[0], text)
    return re.sub(r"(?<=\w)_(?!\w)", r"\\_", text)


def prepare(app, what, name, obj, options, lines):
    """Escape prose; leave mathematics, literal blocks, tables and examples alone."""
    fenced = None  # indentation of the line that opened a block
    in_table = in_example = False
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            in_example = False
            continue
        if fenced is not None and indent > fenced:
            continue
        fenced = None
        if re.match(r"\s*=+( +=+)+\s*$", line):
            in_table = True
            continue
        if in_table and line.startswith(" " * indent) and i + 1 < len(lines):
            in_table = bool(lines[i - 1].strip())
            if in_table:
                continue
        if line.lstrip().startswith(">>>"):
            in_example = True
        if in_example:
            continue
        if re.match(r"\s*\.\. \w+::", line):
            fenced = indent
            continue
        if line.rstrip().endswith("::"):
            fenced = indent
        bullet = re.match(r"\s*[*-] ", line)
        head = bullet[0] if bullet else ""
        lines[i] = head + escape(line[len(head) :])


# ---------------------------------------------------------------- signatures
def signature(app, what, name, obj, options, shown, returns):
    """The signature with annotations as written, ``Data`` and not a shape's full spelling."""
    if what not in ("function", "class", "method", "exception") or shown is None:
        return None
    if getattr(obj, "_is_protocol", False):
        return "", None  # nobody makes one
    function = inspect.unwrap(obj) if what != "class" else obj
    try:
        written = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    parameters = list(written.parameters.values())
    if what == "method" and parameters and parameters[0].name in ("self", "cls"):
        parameters = parameters[1:]
    written = written.replace(parameters=parameters)
    text = stringify_signature(written, show_return_annotation=False, unqualified_typehints=True)
    result = written.return_annotation
    if result is inspect.Signature.empty or what in ("class", "exception"):
        return text, None
    return text, result if isinstance(result, str) else stringify_annotation(result, "smart")


# ---------------------------------------------------------------- directives
class ApiModule(SphinxDirective):
    required_arguments = 1

    def run(self):
        name = self.arguments[0]
        module = importlib.import_module(name)
        self.env.note_dependency(inspect.getsourcefile(module))
        # sdelib.train is a module and a function: the name leads to the function
        unindexed = ["   :no-index:"] if name in reference.public_names() else []
        # the module's anchor passes to what follows it, so nothing that leaves no trace on the page may stand between
        lines = [".. highlight:: none", "", f".. py:module:: {name}", *unindexed, ""]
        text = inspect.cleandoc(module.__doc__ or "").splitlines()
        prepare(None, "module", name, module, None, text)
        lines += [*text, "", ".. highlight:: python", ""]
        for public in reference.public_names().values():
            if public.module == name:
                lines += [*self.entry(public), ""]
        source = StringList()
        for i, line in enumerate(lines):
            source.append(line, name, i)
        holder = nodes.container(classes=["sdelib-api"])
        self.state.nested_parse(source, self.content_offset, holder)
        return [holder]

    def entry(self, public):
        if public.kind == "data":
            text = public.doc.splitlines()
            prepare(None, "data", public.path, public.thing, None, text)
            value = alias(public)
            home, _, own = public.path.rpartition(".")
            head = [f".. py:data:: {own}", f"   :module: {home}", *([f"   :type: {value}"] if value else []), ""]
            return head + [f"   {line}" for line in text]
        lines = [f".. auto{public.kind}:: {public.path}"]
        if public.kind == "class":
            bases = [b for b in public.thing.__bases__ if any(p.thing is b for p in reference.public_names().values())]
            lines += ["   :show-inheritance:"] if bases else []
            for member in public.members:
                lines += ["", *self.member(public, member)]
        return lines

    def member(self, public, name):
        path = f"{public.path}.{name}"
        documented = reference.attribute_docs(public.thing.__module__).get((public.thing.__name__, name))
        if documented:
            return [f"   .. py:attribute:: {name}", "", *(f"      {line}" for line in documented.splitlines())]
        kind = "property" if isinstance(inspect.getattr_static(public.thing, name), property) else "method"
        return [f"   .. auto{kind}:: {path}"]


def alias(public):
    """What a type alias stands for, as its module writes it."""
    source = inspect.getsource(importlib.import_module(public.module))
    found = re.search(rf"^{public.path.rpartition('.')[2]} = ((?:Callable|Float|Int|.*\|).*)$", source, re.MULTILINE)
    return re.sub(r"\s+#.*", "", found[1]) if found else ""


class ApiNames(SphinxDirective):
    """A table of every public name with the first sentence of its docstring, module by module."""

    def run(self):
        pages = reference.described(Path(self.env.app.srcdir))
        order = [module for page in NAMES_ORDER if page in pages for module in pages[page]]
        found = []
        for module in order:
            listed = [p for p in reference.public_names().values() if p.module == module]
            if not listed:
                continue
            found.append(nodes.rubric("", "", nodes.literal("", module), classes=["sdelib-api-module"]))
            found.append(nodes.definition_list("", *map(self.item, listed), classes=["sdelib-api-names"]))
        return found

    def item(self, public):
        lines = [public.summary]
        prepare(None, "", public.path, None, None, lines)
        said = nodes.definition()
        self.env.ref_context["py:module"] = public.module
        self.state.nested_parse(StringList(lines, public.path), 0, said)
        self.env.ref_context.pop("py:module")
        name = nodes.literal("", public.path.removeprefix("sdelib."))
        link = addnodes.pending_xref(
            "", name, refdomain="py", reftype="obj", reftarget=public.path, refexplicit=True, refwarn=True
        )
        return nodes.definition_list_item("", nodes.term("", "", link), said)


NAMES_ORDER = ("words", "noise", "scores", "learning", "moving", "workshop", "seeing")


# ---------------------------------------------------------------- links
def resolve(app, env, node, content):
    """Lead every way to write a public name, such as ``sdelib.sde.VE`` or an inherited method, to its one entry."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    known = reference.canonical_paths()
    inside = [node.get("py:module"), *([f"{node['py:module']}.{node['py:class']}"] if node.get("py:class") else [])]
    for way in (target, *(f"{place}.{target}" for place in inside if place), f"sdelib.{target}"):
        link = link_to(env, app.builder, node["refdoc"], known[way], content) if way in known else None
        if link is not None:
            return link
    short = [path for way, path in known.items() if way.rpartition(".")[2] == target]
    if len(set(short)) == 1 and node.get("reftype") in ("class", "obj", "exc"):
        return link_to(env, app.builder, node["refdoc"], short[0], content)
    return None


def link_to(env, builder, docname, path, content):
    entry = env.get_domain("py").objects.get(path)
    if entry is None:
        return None
    return make_refnode(builder, docname, entry.docname, entry.node_id, content, path)


CALLED = re.compile(r"(?P<path>[A-Za-z_]\w*(?:\.\w+)*)(?:\(.*\))?")
# In prose these are more often an argument or a word than the function of that name.
WORDS = {"label", "line", "train", "Time", "Data", "Path", "Step", "check"}


def named(text):
    """The path of the public name that a code word is, if it is one."""
    found = CALLED.fullmatch(text)
    if not found:
        return None
    known = reference.canonical_paths()
    path = found["path"]
    if path in WORDS and "(" not in text:
        return None
    if path.startswith("sdelib."):
        return known.get(path)
    return known.get(f"sdelib.{path}")


class CodeLinks(SphinxPostTransform):
    """Make code words that are public names links: once a section, and never in a heading or a link."""

    default_priority = 20

    def run(self, **kwargs):
        if self.env.docname.startswith("book/api/"):
            return
        entries = self.env.get_domain("py").objects
        if not any(name.startswith("sdelib.") for name in entries):
            return
        seen = set()
        for literal in list(self.document.findall(nodes.literal)):
            if outside_prose(literal):
                continue
            path = named(literal.astext())
            section = literal
            while section is not None and not isinstance(section, nodes.section):
                section = section.parent
            if path is None or (id(section), path) in seen:
                continue
            link = link_to(self.env, self.app.builder, self.env.docname, path, literal.deepcopy())
            if link is not None:
                seen.add((id(section), path))
                link["classes"].append("sdelib-code-link")
                literal.replace_self(link)


BACK = re.compile(r'href="[^"#]*#(?P<path>sdelib\.[\w.]+)"')


def link_back(app, pagename, templatename, context, doctree):
    """Lead each "[docs]" of a source page to the entry: viewcode knows one path a module, the library several."""
    if not pagename.startswith("_modules/") or "body" not in context:
        return
    entries, known = app.env.get_domain("py").objects, reference.canonical_paths()

    home = pagename.removeprefix("_modules/").replace("/", ".")

    def mended(found):
        parts = found["path"].split(".")
        for path in (found["path"], *(".".join([home, *parts[-n:]]) for n in (1, 2))):
            owner, _, member = path.rpartition(".")
            for way in (path, known.get(path), f"{known.get(owner)}.{member}"):
                if way in entries:
                    uri = app.builder.get_relative_uri(pagename, entries[way].docname)
                    return f'href="{uri}#{entries[way].node_id}"'
        return found[0]

    context["body"] = BACK.sub(mended, context["body"])


def outside_prose(node):
    while node is not None:
        if isinstance(node, nodes.title | nodes.reference | addnodes.pending_xref | nodes.term):
            return True
        node = node.parent
    return False


def setup(app):
    app.setup_extension("sphinx.ext.autodoc")
    app.setup_extension("sphinx.ext.napoleon")
    app.setup_extension("sphinx.ext.viewcode")
    app.connect("autodoc-process-docstring", prepare, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", signature)
    app.connect("missing-reference", resolve)
    app.connect("html-page-context", link_back)
    app.add_directive("api-module", ApiModule)
    app.add_directive("api-names", ApiNames)
    app.add_post_transform(CodeLinks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
