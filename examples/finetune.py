"""Fine-tuning on a task in HEAR's format with one label per clip: the encoder learns along with a
linear layer.

    python examples/finetune.py TASK [--epochs 5] [-o FOLDER]

The last split is held out; its accuracy is printed before (nothing trained but the linear layer)
and after every epoch. FOLDER is a model for `load_model` and the commands, and has the layer behind
it, with the names of the classes in its metadata, in head.safetensors.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import hear_mwmae
from hear_mwmae.audio import read_audio
from hear_mwmae.tasks import read_task


class Classifier(nn.Module):
    """Clips of any lengths, each (samples,) -> (clips, classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embedder = hear_mwmae.load_model(trainable=True)
        size = self.embedder.scene_embedding_size
        self.head = nn.Sequential(nn.BatchNorm1d(size, affine=False), nn.Linear(size, classes))

    def forward(self, clips: list[Tensor]) -> Tensor:
        return self.head(self.embedder.embed(clips))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", type=Path)
    parser.add_argument("--epochs", type=int, default=5, help="5 when not given")
    parser.add_argument("--batch-size", type=int, default=16, help="clips, 16 when not given")
    parser.add_argument(
        "--learning-rate", type=float, default=3e-5, help="of the encoder, 3e-5 when not given"
    )
    parser.add_argument("-o", "--out", type=Path, help="folder for the trained model")
    args = parser.parse_args()

    if args.batch_size < 2:
        parser.error(
            "--batch-size must be 2 or above: BatchNorm knows no deviation of a single clip"
        )
    if args.out and args.out.exists():
        parser.error(f"{args.out} exists")
    if args.out and not args.out.parent.is_dir():
        parser.error(f"no folder {args.out.parent}")
    task = read_task(args.task)
    if task.multilabel:
        parser.error(f"{task.name} has several labels per clip; this example takes one")
    torch.manual_seed(0)
    model = Classifier(len(task.labels))
    splits = [
        [
            (read_audio(path, model.embedder.sample_rate), task.labels.index(label))
            for path, (label,) in split.items()
        ]
        for split in task.splits
    ]
    train, test = [example for split in splits[:-1] for example in split], splits[-1]

    # The linear layer first, on the embeddings as they are: gradients of a random layer would only
    # disturb the encoder.
    with torch.no_grad():
        embeddings = model.embedder.embed([clip for clip, _ in train])
    targets = torch.tensor([label for _, label in train])
    optimizer = torch.optim.AdamW(model.head.parameters(), lr=1e-3, weight_decay=0.1)
    for _ in range(100):
        step(optimizer, model.head(embeddings), targets)
    print(f"linear layer: {accuracy(model, test):.1%}")

    groups = [
        {"params": model.embedder.parameters(), "lr": args.learning_rate},
        {"params": model.head.parameters(), "lr": 10 * args.learning_rate},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.05)
    for epoch in range(1, args.epochs + 1):
        model.train()
        losses = []
        for numbers in torch.randperm(len(train)).split(args.batch_size):
            if len(numbers) > 1:  # BatchNorm knows no deviation of a single clip
                batch = [train[n] for n in numbers.tolist()]
                losses.append(
                    step(
                        optimizer,
                        model([clip for clip, _ in batch]),
                        torch.tensor([label for _, label in batch]),
                    )
                )
        print(f"epoch {epoch}: loss {sum(losses) / len(losses):.3f}, {accuracy(model, test):.1%}")
    if args.out:
        model.embedder.save_pretrained(args.out)
        classes = {"classes": json.dumps(task.labels)}
        save_file(model.head.state_dict(), args.out / "head.safetensors", classes)


def step(optimizer: torch.optim.Optimizer, logits: Tensor, targets: Tensor) -> float:
    loss = nn.functional.cross_entropy(logits, targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@torch.no_grad()
def accuracy(model: Classifier, examples: list[tuple[Tensor, int]]) -> float:
    model.eval()
    predicted = model([clip for clip, _ in examples]).argmax(dim=1)
    return (predicted == torch.tensor([label for _, label in examples])).double().mean().item()


if __name__ == "__main__":
    main()
