"""Write equations as MathML, which browsers display without a script: no page asks a content delivery network."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

if TYPE_CHECKING:
    from sphinx.application import Sphinx

#: What the converter of docutils does not know -> what it knows.
_REWRITES = (
    (re.compile(r"\\(big|Big)(?=\)|\]|\\rangle|\\}|\\rVert|\\rvert)"), r"\\\1r"),
    (re.compile(r"\\(big|Big)(?=\(|\[|\||\\langle|\\{|\\lVert|\\lvert)"), r"\\\1l"),
    (re.compile(r"\\tag\{(\w+)\}"), r"\\qquad (\1)"),
    (re.compile(r"\\(tfrac|frac)(\d)(\d)"), r"\\\1{\2}{\3}"),
    (re.compile(r"\\dots\b"), r"\\ldots"),
    (re.compile(r"\\(textstyle|displaystyle)\b"), ""),
    (re.compile(r"^\s*([\^_])"), r"{}\1"),
)


def to_mathml(tex: str, as_block: bool) -> str:
    """Convert an equation; several paragraphs of it are several lines."""
    for pattern, replacement in _REWRITES:
        tex = pattern.sub(replacement, tex)
    return "".join(tex2mathml(part, as_block) for part in re.split(r"\n\s*\n", tex.strip()))


def write_inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(to_mathml(node.astext(), False))
    raise nodes.SkipNode


def write_block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math">{to_mathml(node.astext(), True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (write_inline, None), (write_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
