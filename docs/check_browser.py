"""Open built pages in headless Chromium: `python docs/check_browser.py docs/_build/html` exits with 1 if one is broken.

Each page is opened in a window of 1280 pixels. The console must stay empty of errors and warnings, every request must
succeed and stay on the site, every picture must load, and the page must not scroll sideways. The browser is that of
playwright (`playwright install chromium --only-shell`), or the program that the variable CHROMIUM names.
"""

from __future__ import annotations

import functools
import http.server
import os
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page, Playwright

WIDTH = 1280  # pixels
#: Without a sandbox and in one process, Chromium also runs as root and in a container.
OPTIONS = ["--no-sandbox", "--single-process", "--no-zygote", "--disable-gpu"]
#: Pictures below the window are loaded late; here all are loaded at once.
BROKEN_PICTURES = """async () => {
    const broken = [];
    for (const image of document.images) {
        image.loading = "eager";
        await image.decode().catch(() => broken.push(image.src.slice(0, 100)));
    }
    return broken;
}"""


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Print nothing for a request."""


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder on a free port of this machine; yields the address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()


def open_window(playwright: Playwright, site: str, faults: list[str]) -> Page:
    """Open a window that appends what the console and the network report to `faults`."""
    browser = playwright.chromium.launch(executable_path=os.environ.get("CHROMIUM"), args=OPTIONS)
    page = browser.new_page(viewport={"width": WIDTH, "height": 900})

    def note(fault: str, found: bool = True) -> None:
        if found:
            faults.append(fault)

    page.on("console", lambda message: note(f"console: {message.text}", message.type in {"error", "warning"}))
    page.on("pageerror", lambda error: note(f"script error: {error}"))
    page.on("requestfailed", lambda request: note(f"request failed: {request.url}"))
    page.on("response", lambda response: note(f"status {response.status}: {response.url}", response.status >= 400))
    page.on(
        "request",
        lambda request: note(f"file of another site: {request.url}", not request.url.startswith((site, "data:"))),
    )
    return page


def find_faults(folder: Path) -> list[str]:
    """Return one line for each fault that the browser finds on the pages below `folder`."""
    lines, faults = [], list[str]()
    with serve(folder) as site, sync_playwright() as playwright:
        page = open_window(playwright, site, faults)
        for path in sorted(folder.rglob("*.html")):
            name = path.relative_to(folder).as_posix()
            if name.startswith("_static/"):
                continue
            page.goto(site + name, wait_until="load")
            faults += [f"picture that does not load: {source}" for source in page.evaluate(BROKEN_PICTURES)]
            width = page.evaluate("document.documentElement.scrollWidth")
            if width > WIDTH:
                faults.append(f"the page is {width} pixels wide")
            lines += [f"{name}: {fault}" for fault in faults]
            faults.clear()
    return lines


def main(folder: Path) -> int:
    if not (folder / "index.html").is_file():
        print(f"{folder} holds no index.html: build the pages first.", file=sys.stderr)
        return 1
    faults = find_faults(folder.resolve())
    print("\n".join(faults) or "No fault found by the browser")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
