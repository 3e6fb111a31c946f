"""Pictures, drawn on matplotlib axes that the caller may bring; nothing is shown or saved."""

from muport.pl._confusion import confusion
from muport.pl._embedding import embedding

__all__ = ["confusion", "embedding"]
