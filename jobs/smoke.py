"""The whole pipeline of a sweep, made tiny: does everything work where it is to run?"""

from jobs.spec import Spec

SAMPLES = 32
FEW = 2


def smoke(spec: Spec) -> Spec:
    """The sweep with one pair, one value of each other part of its grid, two trials, one epoch and few samples.

    It keeps every workload and all that may fail on another machine: baselines, resources, precision, augmentation.
    Its trials have keys of their own, so they stand in nobody's way.
    """
    tree = spec.model_dump(mode="json")
    grid = {name: values[:1] for name, values in tree["grid"].items()}
    grid["rounds"] = [min(spec.grid.rounds[0], FEW)]
    training = tree["training"] | {"epochs": 1, "warmup": 0.0, "milestones": [0.5, 0.75]}
    changed = {
        "name": f"{spec.name[:94]}-smoke",
        "experiment": f"{spec.experiment[:94]}-smoke",
        "grid": grid,
        "search": tree["search"] | {"trials": min(spec.search.trials, FEW)},
        "training": training,
        "scoring": tree["scoring"] | {"batches": 1, "batch_size": min(spec.scoring.batch_size, SAMPLES)},
        "baselines": tree["baselines"][:FEW],
        "confirmations": min(spec.confirmations, 1),
        "samples": min(spec.samples or SAMPLES, SAMPLES),
    }
    return Spec.model_validate(tree | changed)
