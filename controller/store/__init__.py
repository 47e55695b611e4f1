"""What the controller keeps on disk: the artifacts with their pointers, and the log of decisions."""

from __future__ import annotations

from controller.store.artifacts import ArtifactStore, Listed, Pin, Pointer, Version, home_in, shipped_models
from controller.store.decision_log import RecordWriter

__all__ = ["ArtifactStore", "Listed", "Pin", "Pointer", "RecordWriter", "Version", "home_in", "shipped_models"]
