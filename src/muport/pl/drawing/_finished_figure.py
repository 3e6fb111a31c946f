"""What happens to a finished figure: it is shown, saved or returned, as in scanpy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muport._checks import check_flags

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Output"]

_DPI = 200  # of saved files; cells are pixels in PDF and SVG too


@dataclass(frozen=True)
class Output:
    """Whether a figure is shown, the file it is saved to, and whether the figure is returned instead of its axes.

    Created before anything is drawn, so that a bad path is refused first. Raises TypeError, ValueError or
    FileNotFoundError.
    """

    show: bool = False
    save: str | Path | None = None
    return_fig: bool = False

    def __post_init__(self) -> None:
        check_flags(show=self.show, return_fig=self.return_fig)
        if self.save is None:
            return
        if not isinstance(self.save, str | Path):
            raise TypeError(f"save={self.save!r} must be the name of a file, such as 'figure.pdf'.")
        from matplotlib.backend_bases import FigureCanvasBase

        path, formats = Path(self.save), sorted(FigureCanvasBase.get_supported_filetypes())
        if path.suffix.removeprefix(".").lower() not in formats:
            raise ValueError(f"save={str(path)!r} must end in one of {', '.join('.' + name for name in formats)}.")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"save={str(path)!r}: the folder {str(path.parent)!r} does not exist: create it.")

    def finish(self, axes: Axes | list[Axes]) -> Any:
        """Save and show the figure of these axes; return the axes, or the figure if asked."""
        figure: Any = (axes[0] if isinstance(axes, list) else axes).figure
        if self.save is not None:
            figure.savefig(self.save, bbox_inches="tight", dpi=_DPI)
        if self.show:
            from matplotlib import pyplot as plt

            plt.show()
        return figure if self.return_fig else axes
