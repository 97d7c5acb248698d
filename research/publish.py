"""A finished run -> a model directory: float16 weights, measured results, model card.

    python -m research.publish RUN TASK... -o weights/MODEL \\
        --manifest data/debian/manifest.csv --manifest data/procedural/manifest.csv \\
        --license apache-2.0 --origin "Debian's main section." --hardware "two cores"

All numbers of the card are computed here: hours and licences from the manifests of the audio that
the run heard, steps, time and loss from its log, scores by linear probes of the very weights that
are written, beside two baselines.
"""

import dataclasses
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import pandas as pd
import torch
from huggingface_hub import EvalResult

from hear_mwmae.baselines import BASELINES, load_models
from hear_mwmae.card import model_card
from hear_mwmae.cli.options import POOLING, TASKS, Command, out_option
from hear_mwmae.config import PAPERS_POOLING
from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.files import write_text
from hear_mwmae.hub import CARD_NAME
from hear_mwmae.probe import read_tasks, score_models
from hear_mwmae.weights import load_embedder, read_model, save_model

from .corpora.manifest import read_manifest

#: Pictures and tables beside the card: loss by step; hours by package, version, licence and kind.
LOSS_CURVE, AUDIO = "loss.png", "audio.csv"
#: Steps over which the final loss is averaged, because single batches are noisy.
LOSS_WINDOW = 200


def describe_data(sources: pd.DataFrame, origin: str) -> str:
    """Markdown about the training audio, with its hours by kind."""
    kinds = sources.groupby("kind")["hours"].sum()
    summary = ", ".join(f"{kind} {hours:.1f} h" for kind, hours in kinds.items())
    return (
        f"{kinds.sum():.1f} hours of audio: {summary}. {origin}\n\n"
        f"`{AUDIO}` beside this card lists packages, versions, licences and hours."
    )


def read_log(run: Path) -> pd.DataFrame:
    """The rows of a run's log, one for each step; of a step that was repeated, the last."""
    starts = sorted(run.glob("logs/version_*/metrics.csv"), key=lambda path: path.stat().st_mtime)
    rows = pd.concat([pd.read_csv(path) for path in starts]).dropna(subset=["loss"])
    return rows.drop_duplicates("step", keep="last").sort_values("step")


def describe_training(recipe_text: str, log: pd.DataFrame, hardware: str) -> str:
    """Markdown: steps, time, machine, loss, recipe."""
    recipe = tomllib.loads(recipe_text)
    steps, batch = recipe["steps"], recipe["batch_size"]
    if len(log) != steps:
        raise HearMwmaeError(f"the run has {len(log)} of {steps} steps: it is not finished")
    loss = log["loss"].tail(LOSS_WINDOW).mean()
    return (
        f"{steps:,} steps of {batch} crops of two seconds ({steps * batch:,} crops). "
        f"{log['seconds'].iloc[-1] / 60:.0f} minutes on {hardware}; "
        f"loss {loss:.3f} over the last {LOSS_WINDOW} steps (mean squared error on masked, "
        f"normalised log-mel patches).\n\n![Loss by step]({LOSS_CURVE})\n\n"
        f"```toml\n{recipe_text.strip()}\n```"
    )


def measure(model: Path, tasks: tuple[Path, ...]) -> list[dict[str, Any]]:
    """A row per task: accuracy in percent, of the model and its baselines."""
    sources = {"value": str(model)} | {name: name for name in BASELINES}
    models, pooling = load_models(sources)
    if pooling != PAPERS_POOLING:
        models["paper_pooling"] = load_embedder(model, pooling=PAPERS_POOLING)
    read = read_tasks(tasks)
    rows = []
    for task, scores in zip(read, score_models(read, models), strict=True):
        values = {name: round(found.value, 1) for name, found in scores.items()}
        rows.append({"task": task.name, "metric": "accuracy", **values})
    return rows


def on_hub(results: list[dict[str, Any]]) -> list[EvalResult]:
    """The results as the Hub lists them."""
    return [
        EvalResult(
            task_type="audio-classification",
            dataset_type=row["task"],
            dataset_name=row["task"],
            metric_type=row["metric"],
            metric_value=row["value"],
        )
        for row in results
    ]


@click.command(cls=Command, help=__doc__)
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@TASKS
@out_option("Model directory to write.", folder=True)
@click.option("--manifest", "manifests", multiple=True, required=True, help="Repeatable.")
@click.option("--hardware", required=True, help="In words.")
@click.option("--license", "license_", required=True, help="Of the weights, as the Hub calls it.")
@click.option("--origin", required=True, help="Where the audio comes from, in words.")
@click.option("--limit", "limits", multiple=True, help="A known limit of the model. Repeatable.")
@POOLING
def main(
    run: Path,
    tasks: tuple[Path, ...],
    out: Path,
    manifests: tuple[str, ...],
    hardware: str,
    license_: str,
    origin: str,
    limits: tuple[str, ...],
    pooling: str | None,
) -> None:
    recipe = (run / "recipe.toml").read_text(encoding="utf-8")
    log = read_log(run)
    training = describe_training(recipe, log, hardware)
    heard = pd.concat([read_manifest(Path(path)) for path in manifests])
    heard["hours"] = heard["seconds"] / 3600
    sources = heard.groupby(["package", "version", "licence", "kind"])["hours"].sum().reset_index()
    config, state = read_model(run / "model")
    config = dataclasses.replace(config, pooling=pooling or config.pooling)
    with TemporaryDirectory() as rounded:
        # Rounded to 11 bits: half the size, and results as good as float32's to the digits shown.
        save_model(rounded, config, state, torch.float16)
        results = measure(Path(rounded), tasks)
    # Written only now, so that an error above leaves ``out`` unchanged.
    save_model(out, config, state, torch.float16)
    names = " ".join(task.name for task in tasks)
    sections = {
        "Data": describe_data(sources, origin),
        "Training": training,
        "Results": f"{pd.DataFrame(results).to_markdown(index=False)}\n\n"
        f"By `python -m research.publish RUN {names} -o OUT ...`.",
        "Limits": "\n".join(f"- {limit}" for limit in limits),
    }
    text = "".join(f"## {title}\n\n{said}\n\n" for title, said in sections.items() if said)
    curve = log.set_index("step")["loss"].rolling(LOSS_WINDOW // 4, min_periods=1).mean()
    axes = curve.plot(logy=True, figsize=(8, 3.2), grid=True, ylabel="mean squared error")
    axes.figure.savefig(out / LOSS_CURVE, dpi=160)
    sources.round(3).to_csv(out / AUDIO, index=False)
    card = model_card(config, out.name, text, license=license_, eval_results=on_hub(results))
    write_text(out / CARD_NAME, card)


if __name__ == "__main__":
    main()
