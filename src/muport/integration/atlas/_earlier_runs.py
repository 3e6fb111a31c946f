"""A result on disk of an earlier call: it is returned, continued, or refused with what differs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muport._schema_version import SCHEMA_VERSION, check_schema_version
from muport.data.out_of_core._fingerprint import HashedRows, changes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from muport.data.out_of_core._result_sinks import FileSink

__all__ = ["EarlierRuns"]


@dataclass(frozen=True, eq=False)
class EarlierRuns:
    """What earlier calls left at the path of a result.

    - `sink`: The path, which is claimed.
    - `job`: Description of this call without the coordinates.
    - `rows`: The coordinates; they are read only if all else is equal.
    """

    sink: FileSink
    job: Mapping[str, Any]
    rows: HashedRows

    def get_finished(self, resume: bool) -> dict[str, float]:
        """Return the metrics of the finished result of this very call.

        Raises FileExistsError if the path is that of anything else, or the result was changed or damaged.
        """
        earlier = self.sink.finished()
        if not earlier:
            raise self._refusal("it was not written by integrate_centroids")
        if outdated := _compare_versions(earlier):
            raise self._refusal(outdated)
        if not resume:
            raise self._refusal("resume=False asks for a new one")
        if differences := self._compare(earlier["job"]):
            raise self._refusal(differences)
        if not self.sink.is_whole():
            raise self._refusal("its rows were changed or damaged after they were written")
        return dict(earlier["metrics"])

    def _refusal(self, reason: str) -> FileExistsError:
        return FileExistsError(
            f"tmp_path={str(self.sink.path)!r} exists, and is not the result of this very call: {reason}. Pass "
            "overwrite=True (muport atlas --force) to replace it, or choose another path."
        )

    def has_unfinished(self, resume: bool, overwrite: bool) -> bool:
        """Whether there is an unfinished result of this very call to continue.

        Raises FileExistsError if it is of another call, and was not asked to be replaced.
        """
        earlier = self.sink.unfinished()
        job = earlier.get("job", {})
        differences = _compare_versions(earlier) if earlier else ""
        # without coordinates nothing was fitted yet, and there is nothing to lose
        if not resume or not (differences or "coordinates" in job):
            return False
        differences = differences or self._compare(job)
        if differences and not overwrite:
            raise FileExistsError(
                f"tmp_path={str(self.sink.path)!r}: {self.sink.partial.name!r} is the unfinished result of another "
                f"call: {differences}. Pass resume=False (muport atlas --no-resume) to start again, repeat the other "
                "call to finish it, or choose another path."
            )
        return not differences

    def _compare(self, earlier: Mapping[str, Any]) -> str:
        return changes(earlier, self.job) or changes(earlier, {"coordinates": self.rows.digest()})


def _compare_versions(earlier: Mapping[str, Any]) -> str:
    """Return in words why this version of muport cannot use what another one wrote; empty if it can."""
    found = earlier.get("schema_version")
    if found is None:
        return "an earlier version of muport wrote it, without a schema_version"
    try:
        check_schema_version(found, "it")
    except ValueError as error:
        return str(error).removesuffix(".")
    return "" if found == SCHEMA_VERSION else f"an earlier version of muport wrote it, with schema_version={found}"
