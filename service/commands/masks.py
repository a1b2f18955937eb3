"""`cops best | fetch | compare | frontier`: what the API knows of masks."""

import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jobs.errors import UserError
from service.masks import MaskSummary, Metric
from service.show import Json, percent, print_json, table

app = typer.Typer()
Model = Annotated[str, typer.Argument(help="As in the sweep file, e.g. convnet.", show_default=False)]
Data = Annotated[str, typer.Argument(help="As in the sweep file, e.g. digits.", show_default=False)]
Id = Annotated[str, typer.Argument(help="Id of a mask, as `cops best` prints it.", show_default=False)]
ByMetric = Annotated[Metric, typer.Option(help="What makes a mask good.")]
Layout = Annotated[str | None, typer.Option(help="Masks of this layout alone, e.g. 2:4.")]
Samples = Annotated[int | None, typer.Option(min=16, help="Masks of sweeps with so few `samples`, not of all.")]
Confirmations = Annotated[int, typer.Option(min=0, help="Fresh runs that there must be.")]


@app.command()
def best(
    model: Model,
    data: Data,
    sparsity: Annotated[float, typer.Argument(help="Fraction of the weights removed.", show_default=False)],
    tolerance: Annotated[float, typer.Option(help="How much sparser it may be.")] = 0.0,
    target: Annotated[str | None, typer.Option(help="Masks of this target alone, e.g. snip+synflow.")] = None,
    control: Annotated[str | None, typer.Option(help="Masks with this control alone, e.g. grasp.")] = None,
    layout: Layout = None,
    samples: Samples = None,
    metric: ByMetric = "validation_accuracy",
    min_confirmations: Confirmations = 0,
    as_json: Json = False,
) -> None:
    """The best mask of a model at a sparsity."""
    from service.client import Client

    with Client() as client:
        found = client.best(
            model,
            data,
            sparsity,
            tolerance=tolerance,
            target=target,
            control=control,
            layout=layout,
            samples=samples,
            metric=metric,
            min_confirmations=min_confirmations,
        ).summary
    if as_json:
        print_json(found)
        return
    Console().print(table("", found.method, rows=_facts(found), title=f"{model} on {data}"))
    print(f"cops fetch {found.id}     saves its file, for cops.Mask.load")


@app.command()
def fetch(
    mask_id: Id,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to save it; else mask.cops, or weights.safetensors.")
    ] = None,
    weights: Annotated[bool, typer.Option(help="The trained network's state, in safetensors, instead.")] = False,
    as_json: Json = False,
) -> None:
    """Save the file of a mask."""
    output = output or Path("weights.safetensors" if weights else "mask.cops")
    if not output.absolute().parent.is_dir():
        raise UserError(f"--output = '{output}': there is no folder '{output.absolute().parent}'; make it first")
    from service.client import Client

    with Client() as client:
        path = client.weights_file(mask_id) if weights else client.mask_file(mask_id)
    try:
        shutil.copyfile(path, output)
    except OSError as error:
        raise UserError(f"--output = '{output}' cannot be written: {error.strerror}") from None
    if as_json:
        print_json({"id": mask_id, "path": str(output)})
    elif weights:
        print(f"saved {output}: model.load_state_dict(safetensors.torch.load_file('{output}'))")
    else:
        print(f"saved {output}: cops.Mask.load('{output}').apply(model)")


@app.command()
def compare(
    first: Id,
    second: Annotated[str, typer.Argument(help="Id of the other mask.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Two masks side by side: how good they are, what they share, what they keep of each layer."""
    from service.client import Client

    with Client() as client:
        masks = [client.mask(first), client.mask(second)]
        densities = [client.layers(first), client.layers(second)]
        shared = client.similarity(first, second)
    if as_json:
        print_json({"masks": masks, "similarity": shared, "layer_density": densities})
        return
    facts = [_facts(mask) for mask in masks]
    rows = [[name, left, right] for (name, left), (_, right) in zip(*facts, strict=True)]
    Console().print(table("", masks[0].method, masks[1].method, rows=rows))
    names = dict.fromkeys([*densities[0], *densities[1]])
    rows = [[name, *(percent(density.get(name)) for density in densities)] for name in names]
    Console().print(table("kept of each layer, in %", first[:8], second[:8], rows=rows))
    print(f"kept by both / kept by either: {percent(shared)}%")


@app.command()
def frontier(
    model: Model,
    data: Data,
    layout: Layout = None,
    samples: Samples = None,
    metric: ByMetric = "validation_accuracy",
    min_confirmations: Confirmations = 0,
    as_json: Json = False,
) -> None:
    """How accurate a model's masks are at each sparsity: those that no other beats in both."""
    from service.client import Client

    with Client() as client:
        found = client.frontier(
            model, data, layout=layout, samples=samples, metric=metric, min_confirmations=min_confirmations
        )
    if as_json:
        print_json(found)
        return
    if not found:
        raise UserError(f"no masks of {model} on {data}: `cops frontier` shows what finished sweeps left")
    _plot([(mask.sparsity, getattr(mask, metric)) for mask in found], metric)
    rows = [
        [
            f"{mask.sparsity:g}",
            mask.method,
            percent(mask.validation_accuracy, mask.validation_error),
            percent(mask.test_accuracy),
            str(mask.confirmations),
            mask.id,
        ]
        for mask in found
    ]
    Console().print(table("sparsity", "method", "validation %", "test %", "confirmed", "id", rows=rows))


def _facts(mask: MaskSummary) -> list[list[str]]:
    numbers = {**mask.target, **mask.alpha}
    return [
        ["id", mask.id],
        ["sparsity", f"{mask.removed:.4f}"],
        ["layout", mask.layout],
        ["weights and levels", ", ".join(f"{name} {value:.2f}" for name, value in numbers.items())],
        ["validation accuracy, %", percent(mask.validation_accuracy, mask.validation_error)],
        ["test accuracy, %", percent(mask.test_accuracy)],
        ["fresh runs", str(mask.confirmations)],
        ["initialisation", str(mask.seed)],
        ["samples", "all" if mask.samples is None else f"{mask.samples} at most"],
    ]


def _plot(points: list[tuple[float, float]], metric: str) -> None:
    import plotille

    figure = plotille.Figure()
    figure.width, figure.height, figure.color_mode = 60, 12, "names"
    figure.x_label, figure.y_label = "sparsity", metric.replace("_", " ") + ", %"
    lowest, highest = (edge(100 * value for _, value in points) for edge in (min, max))
    figure.set_y_limits(max(0.0, lowest - 2), min(100.0, highest + 2))
    figure.y_ticks_fkt = lambda value, _: f"{value:7.1f}"
    figure.x_ticks_fkt = lambda value, _: f"{value:.3f}"
    sparsities, values = [x for x, _ in points], [100 * y for _, y in points]
    figure.plot(sparsities, values)
    figure.scatter(sparsities, values, marker="o")
    print(figure.show())
