"""Run the command line as ``python -m muport``."""

from __future__ import annotations

from muport.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
