"""What a sweep that comes over the network may name. Pure."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from jobs.spec import Spec

ADMIN = "a token of scope admin (`cops token create NAME --scope admin`) may"


def forbidden(spec: Spec, folders: Sequence[PurePosixPath]) -> str | None:
    """Why a sweep needs the scope admin; None if it does not.

    An import path runs whatever code the cluster has under that name; a path reads whatever file it has there.

    Args:
        spec: the sweep.
        folders: those whose files may be named, and what is below them.
    """
    for index, workload in enumerate(spec.workloads):
        for key, reference in (("model", workload.model), ("data", workload.data)):
            where = f"workloads[{index}].{key}"
            if reference.name not in reference.shipped:
                return (
                    f"{where} = '{reference.name}': an import path, which {ADMIN} name; known are "
                    f"{', '.join(reference.shipped)}"
                )
            path = reference.options.get("path")
            if path is not None and not _inside(PurePosixPath(str(path)), folders):
                allowed = ", ".join(map(str, folders)) or "none"
                return (
                    f"{where}.options.path = '{path}': not in a folder that this server allows (COPS_ALLOWED_DATA: "
                    f"{allowed}); {ADMIN} name any"
                )
    return None


def _inside(path: PurePosixPath, folders: Sequence[PurePosixPath]) -> bool:
    return ".." not in path.parts and any(path.is_relative_to(folder) for folder in folders)
