"""eval/mteb_encoder.py under mteb's own evaluation."""

import numpy as np
import pytest
from hear_tasks import tone

from hear_mwmae import load_model

mteb = pytest.importorskip("mteb", reason="make test installs it")


def clips(number: int, rng: np.random.Generator) -> dict[str, list]:
    """Low and high tones of different lengths and rates, as mteb hands them on."""
    rates = [(16000, 32000)[n % 3 == 0] for n in range(number)]
    audio = [
        {"array": tone(rng, n % 2 == 1, 0.2 + n / 50), "sampling_rate": rate}
        for n, rate in enumerate(rates)
    ]
    return {"audio": audio, "label": [n % 2 for n in range(number)]}


def test_mteb_evaluates_the_encoder(saved_model):
    from datasets import Dataset, DatasetDict
    from mteb.mocks import MockAudioClassification
    from mteb.models.models_protocols import EncoderProtocol

    from eval.mteb_encoder import MwMaeEncoder, model_meta

    class Tones(MockAudioClassification):
        def load_data(self, **_: object) -> None:
            rng = np.random.default_rng(0)
            # Without the column type Audio, whose decoder needs FFmpeg.
            splits = {
                name: Dataset.from_dict(clips(number, rng))
                for name, number in (("train", 24), ("test", 12))
            }
            self.dataset, self.data_loaded = DatasetDict(splits), True

    meta = model_meta(pooling="mean+std")
    assert meta.name == "hear-mwmae/embedded-mean+std" and meta.embed_dim == 2560
    assert (
        meta.revision == model_meta().revision != model_meta(str(saved_model)).revision
    )  # by which mteb keeps scores
    meta = model_meta(str(saved_model))
    encoder = meta.load_model()
    assert isinstance(encoder, MwMaeEncoder) and isinstance(encoder, EncoderProtocol)
    results = mteb.evaluate(encoder, Tones(), cache=None, show_progress_bar=False)
    assert results.model_name == meta.name
    (result,) = results.task_results
    assert result.get_score() > 0.9


@pytest.mark.parametrize("channels", [1, 2])
def test_clips_are_resampled_as_everywhere(saved_model, channels):
    from datasets import Dataset
    from torch.utils.data import DataLoader

    from eval.mteb_encoder import MwMaeEncoder

    mono = clips(4, np.random.default_rng(1))["audio"]
    expected = load_model(saved_model).embed(mono).numpy()
    heard = [clip | {"array": [clip["array"]] * channels} for clip in mono]
    loader = DataLoader(Dataset.from_dict({"audio": heard}), batch_size=3)
    embedded = MwMaeEncoder(source=str(saved_model)).encode(loader)
    assert np.abs(embedded - expected).max() < 1e-5
