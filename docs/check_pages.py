"""Check built pages without a browser: `python docs/check_pages.py docs/_build/html` exits with 1 if a page is broken.

Every link within the pages leads to a page and an anchor that exist, every picture exists and has a text, no script or
style is read from another site, equations are MathML, and nothing is wider than a window of 1280 pixels: no fixed width
above it, and no long word outside of elements that scroll or break by themselves.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

WIDEST = 1280  # pixels
#: Elements that scroll by themselves, or whose words may break at any letter (muport.css).
SCROLLING = {"pre", "table", "math", "script", "style", "code", "dt", "svg", "title"}
LONGEST_WORD = 90  # letters of a column of text at 1280 pixels
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


@dataclass
class Page(HTMLParser):
    """Links, pictures, anchors and faults of a page."""

    links: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    inside: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag not in VOID:
            self.inside.append(tag)
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        source = given.get("src") if tag in {"img", "script", "iframe"} else None
        if tag == "link" and given.get("rel") in {"stylesheet", "preload"}:
            source = given.get("href")
        if source:
            self.files.append(source)
        if tag == "img" and not given.get("alt"):
            self.faults.append(f"picture without a text: {given.get('src', '')[:60]}")
        self._check_width(tag, given)

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not SCROLLING.intersection(self.inside):
            self.faults += [f"long word: {w[:40]}..." for w in data.split() if len(w) > LONGEST_WORD]
            if re.search(r"\\\(|\\\[|\$\$", data):
                self.faults.append(f"equation that is not converted: {data.strip()[:60]}")

    def _check_width(self, tag: str, given: dict[str, str]) -> None:
        widths = re.findall(r"(?<![-\w])(?:min-)?width:\s*(\d+)px", given.get("style", ""))
        if tag not in {"img", "svg"} and given.get("width", "").isdigit():  # pictures shrink with the page
            widths.append(given["width"])
        if any(int(width) > WIDEST for width in widths) and not SCROLLING.intersection(self.inside[:-1]):
            self.faults.append(f"<{tag}> is {max(map(int, widths))} pixels wide")


def read_page(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def check_address(address: str, path: Path, pages: dict[Path, Page], is_file: bool) -> str | None:
    """Return what is wrong with an address on the page `path`, or None."""
    parts = urlsplit(address)
    if parts.scheme == "data":
        return None
    if parts.scheme or parts.netloc:
        return f"file of another site: {address}" if is_file else None
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    target = target / "index.html" if target.is_dir() else target
    if not target.is_file():
        return f"dead link: {address}"
    if parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
        return f"no such anchor: {address}"
    return None


def find_faults(folder: Path) -> list[str]:
    """Return one line for each fault of the pages below `folder`."""
    pages = {path.resolve(): read_page(path) for path in sorted(folder.rglob("*.html")) if "_static" not in path.parts}
    lines = []
    for path, page in pages.items():
        found = [check_address(link, path, pages, is_file=False) for link in page.links]
        found += [check_address(file, path, pages, is_file=True) for file in page.files]
        lines += [f"{path.relative_to(folder.resolve())}: {text}" for text in (*page.faults, *filter(None, found))]
    return sorted(set(lines))


def main(folder: Path) -> int:
    if not (folder / "index.html").is_file():
        print(f"{folder} holds no index.html: build the pages first.", file=sys.stderr)
        return 1
    faults = find_faults(folder)
    print("\n".join(faults) or f"{len(list(folder.rglob('*.html')))} pages, no fault")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
