"""The command line: ``muport`` or ``python -m muport``.

In the order of reading:

- ``_main``: the program: its commands, error messages and exit codes
- ``_options``: options that several commands have, and the YAML file that can hold them
- ``_data_files``: data files: read by their suffix, written whole or not at all
- ``_pictures``: the pictures of ``--plot``
- ``_report``: the summary that a command prints at its end
- ``_integrate_command``: ``muport integrate`` and ``muport transfer``
- ``_atlas_command``: ``muport atlas``: integration out of core
- ``_gmm_command``: ``muport gmm``: patients as Gaussian mixtures
- ``_velocity_command``: ``muport velocity``: velocities and fates
- ``_info_command``: ``muport info``: versions, and contents of a file or model
"""

from muport.cli._main import main

__all__ = ["main"]
