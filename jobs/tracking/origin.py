"""Where a sweep comes from, in MLflow's own terms: source, git commit, data sets."""

import json
from collections.abc import Mapping
from typing import Any

from mlflow.entities import Dataset, DatasetInput
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_GIT_DIRTY, MLFLOW_SOURCE_NAME

from jobs.data import digest
from jobs.provenance import Provenance
from jobs.spec import Spec
from jobs.tracking.entities import CODE, FILE_SHA256, SWEEP_NAME, VERSION

SHORT = 16  # hex digits of a digest; MLflow's database takes 36, and its pages show fewer


def origin_tags(spec: Spec, origin: Provenance | None) -> tuple[dict[str, str], dict[str, str]]:
    """Tags of the sweep's run, and those of them that each trial's run has too: people filter and group by these."""
    each = {SWEEP_NAME: spec.name}
    if origin is None:
        return each, each
    each |= {CODE: origin.code, MLFLOW_SOURCE_NAME: origin.file}
    ours = each | {VERSION: origin.version, FILE_SHA256: origin.digest}
    if origin.commit is not None:
        each = each | {MLFLOW_GIT_COMMIT: origin.commit}
        ours |= {MLFLOW_GIT_COMMIT: origin.commit, MLFLOW_GIT_DIRTY: str(origin.dirty)}
    return ours, each


def data_input(name: str, arrays: Mapping[str, Any]) -> DatasetInput:
    """A data set as MLflow records it: its reference, what it is named by, and a digest of all its samples."""
    full = digest(arrays)
    sizes = {part: len(arrays[part][1]) for part in ("train", "validation", "test")}
    profile = sizes | {"classes": arrays["classes"], "shape": list(arrays["train"][0].shape[1:]), "sha256": full}
    found = Dataset(
        name=name,
        digest=full[:SHORT],
        source_type="code",
        source=json.dumps({"tags": {MLFLOW_SOURCE_NAME: name}}),
        profile=json.dumps({"num_rows": sum(sizes.values())} | profile),
    )
    return DatasetInput(found, [])
