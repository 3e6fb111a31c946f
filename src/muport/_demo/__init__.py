"""The demonstration behind ``muport demo``.

Files in the order of reading:

- ``_run``: the demonstration from beginning to end
- ``_examples``: the data, embedded or from the folder that ``MUPORT_DATA`` names
- ``_scores``: one fit per example, with scores before and after
- ``_output``: tables, figures, and the file that marks the folder of a demonstration
"""

from muport._demo._run import run

__all__ = ["run"]
