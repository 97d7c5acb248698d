"""Parity with the authors' JAX code. docs/design.md has the table of mutations that each of these
catches.
"""

import numpy as np
import pytest
import torch
from reference import LENGTHS, REFERENCE, load, parameter, reference_model, spectrogram, waveform

import hear_mwmae
from hear_mwmae.attention import MultiWindowAttention
from hear_mwmae.config import FrontendConfig, preset
from hear_mwmae.embedder import Embedder
from hear_mwmae.frontend import LogMelFrontend
from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.official import convert_params
from hear_mwmae.patches import patchify
from hear_mwmae.training.optim import make_optimizers, schedule
from hear_mwmae.training.recipe import Recipe
from hear_mwmae.weights import read_model

KINDS = ("mwmae", "mae")
WINDOWS = (2, 5, 10, 25, 50, 125, 0, 0)
CHECKPOINT = REFERENCE / "official_checkpoint" / "checkpoint_198400"


def distance(actual: torch.Tensor | np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute difference."""
    actual = actual.detach().numpy() if isinstance(actual, torch.Tensor) else actual
    assert actual.shape == expected.shape
    return float(np.abs(actual.astype("f8") - expected).max())


def ours(flax_path: str) -> str:
    """This package's name of a flax parameter."""
    (name,) = convert_params({flax_path: np.zeros((1, 1, 1, 1), "f4")})
    return name


def embedder(kind: str, **options: object) -> Embedder:
    model = Embedder(preset(f"{kind}-tiny"), **options)
    model.encoder.load_state_dict(reference_model(kind).encoder.state_dict())
    return model


def in_windows(weights: torch.Tensor, w: int, shift: bool) -> torch.Tensor:
    """(B, tokens, tokens) of a head -> (B * windows, w, w), windows of one clip in a row; global
    heads as they are.
    """
    if not w:
        return weights
    if shift:
        order = torch.arange(weights.shape[1]).roll(-(w // 2))
        weights = weights[:, order][:, :, order]
    blocks = weights.unflatten(1, (-1, w)).unflatten(3, (-1, w))
    return blocks.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2).flatten(0, 1)


@pytest.mark.parametrize("label", LENGTHS)
def test_waveforms_are_regenerated(label):
    fixture = load("frontend.npz")
    assert distance(waveform(label)[:, :16], fixture[f"{label}_wave_head"]) == 0


def test_mel_filterbank():
    filterbank = LogMelFrontend(FrontendConfig()).windows[0].filterbank
    assert distance(filterbank, load("frontend.npz")["mel_fb"]) < 1e-7


@pytest.mark.parametrize("label", LENGTHS)
def test_frontend(label):
    fixture, frontend = load("frontend.npz"), LogMelFrontend(FrontendConfig())
    _, _, frames, *_ = fixture[f"{label}_shape"]
    index = fixture.get(f"{label}_idx", np.arange(frames))
    log_mel, features = frontend.log_mel(waveform(label)), frontend(waveform(label))
    assert log_mel.shape == features.shape == (2, frames, 80)

    whole = f"{label}_logmel" in fixture
    expected = fixture[f"{label}_logmel" if whole else f"{label}_logmel_sub"].transpose(0, 2, 1)
    actual = (log_mel if whole else log_mel[:, index]).numpy()
    assert np.abs(actual - expected).max() < 1e-5
    expected = fixture[f"{label}_feat" if f"{label}_feat" in fixture else f"{label}_feat_sub"]
    assert distance(features[:, index], expected[..., 0]) < 1e-5
    mean_std = fixture[f"{label}_mean_std_unbiased"]
    assert log_mel.mean(dim=(1, 2)).numpy() == pytest.approx(mean_std[0], rel=1e-6)
    assert log_mel.std(dim=(1, 2)).numpy() == pytest.approx(mean_std[1], rel=1e-6)


def test_positions():
    # The tables are computed in float32 angles up to 249, whose spacing there is 1.5e-5.
    fixture, model = load("pos_embeds_tiny.npz"), MaskedAutoencoder(preset("mwmae-tiny"))
    assert distance(model.encoder.pos_embed, fixture["pos_embed"]) < 1e-5
    assert distance(model.decoder.decoder_pos_embed, fixture["decoder_pos_embed"]) < 2e-5
    baseline = MaskedAutoencoder(preset("mae-tiny"))
    assert not baseline.encoder.pos_embed[:, 0].any()
    assert distance(baseline.encoder.pos_embed[:, 1:], fixture["pos_embed"]) < 1e-5


@pytest.mark.parametrize("variant", ["noshift", "shift", "noshift_hot", "shift_hot"])
def test_multi_window_attention(variant):
    fixture, hot = load("wmha_module.npz"), variant.endswith("hot")
    module = MultiWindowAttention(384, WINDOWS, shift=variant.startswith("shift"))
    state = {}
    for name, width in (("qkv", 1152), ("proj", 384)):
        kernel = parameter(f"{name}/kernel", (384, width), 0.1 if hot else 0.02)
        state[f"{name}.weight"] = torch.from_numpy(kernel.T)
        bias = parameter(f"{name}/bias", (width,), 0.1 if hot else 0.02)
        state[f"{name}.bias"] = torch.from_numpy(bias)
    for head, w in enumerate(WINDOWS):
        if w:
            path = f"attn_heads_{head}/relative_position_bias_table"
            table = parameter(path, (2 * w - 1, 1), 1.0 if hot else 0.02)
            state[f"relative_position_bias_table.{head}"] = torch.from_numpy(table[:, 0])
    module.load_state_dict(state)
    x = torch.from_numpy(np.random.RandomState(99).standard_normal((2, 250, 384)).astype("f4"))
    y = module(x)
    rows = list(range(0, 250, 10))
    if hot:
        rows = [0, 1, 2, 3, 61, 62, 63, 124, 125, 126, 186, 187, 188, 223, 224, 225, 237, 238]
        rows += range(244, 250)
    scale = np.abs(fixture[f"{variant}_y_sub"]).max()
    assert distance(y[:, rows], fixture[f"{variant}_y_sub"]) < 2e-6 * max(scale, 1)
    dense = module.attention_weights(x)
    per_head = [in_windows(dense[:, head], w, module.shift) for head, w in enumerate(WINDOWS)]
    for head, weights in enumerate(per_head):
        assert weights.shape == tuple(fixture[f"{variant}_attn{head}_shape"])
        if f"{variant}_attn{head}" in fixture:
            assert distance(weights, fixture[f"{variant}_attn{head}"]) < 5e-6
        mean, std, norm, top = fixture[f"{variant}_attn{head}_stats"]
        w = weights.double()
        assert [w.mean(), w.std(correction=0), w.norm(), w.max()] == pytest.approx(
            [mean, std, norm, top], rel=1e-4
        )
    if hot:
        five = per_head[5]
        assert distance(five[:, [0, 61, 62, 63, 124]], fixture[f"{variant}_attn5_rows"]) < 5e-6


@pytest.mark.parametrize("kind", KINDS)
def test_features(kind):
    with torch.no_grad():
        features = reference_model(kind).encoder.forward_features(spectrogram(1234))
    assert distance(features, load(f"features_{kind}_tiny.npz")["y"]) < 1e-5


@pytest.mark.parametrize("norm_pix_loss", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_training_forward_and_gradients(kind, norm_pix_loss):
    fixture, suffix = load(f"mae_forward_{kind}_tiny.npz"), "norm" if norm_pix_loss else "raw"
    model, x = reference_model(kind, norm_pix_loss=norm_pix_loss), spectrogram(4321)
    out = model(x, torch.from_numpy(fixture["noise"]))
    assert distance(patchify(x, (4, 16))[:, :4], fixture["target_head"]) == 0
    assert distance(out.latent, fixture["latent"]) < 1e-5
    assert distance(out.pred, fixture["pred"]) < 1e-5
    assert np.array_equal(out.mask, fixture["mask"])
    assert np.array_equal(out.ids_restore, fixture["ids_restore"])
    assert out.loss.item() == pytest.approx(float(fixture[f"loss_{suffix}_f64"]), abs=1e-6)

    out.loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    norms = [gradients[ours(path)].double().norm().item() for path in fixture["grad_names"]]
    assert len(norms) == len(gradients)
    assert norms == pytest.approx(list(fixture[f"grad_l2_{suffix}_stats"]), rel=1e-4)
    if not norm_pix_loss:
        for key, expected in fixture.items():
            if key.startswith("grad:"):
                actual = gradients[ours(key.removeprefix("grad:"))]
                assert distance(actual.view(expected.shape), expected) < 1e-6
        assert distance(gradients["decoder.mask_token"], fixture["grad_mask_token"]) < 1e-6


@pytest.mark.parametrize("label", LENGTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_hear_embeddings(kind, label):
    fixture, audio = load(f"hear_{kind}_tiny.npz"), waveform(label)
    model = embedder(kind, timestamps="official")
    assert distance(hear_mwmae.get_scene_embeddings(audio, model), fixture[f"{label}_scene"]) < 1e-5
    embeddings, timestamps = hear_mwmae.get_timestamp_embeddings(audio, model)
    assert embeddings.shape == tuple(fixture[f"{label}_emb_shape"])
    index = fixture.get(f"{label}_idx", np.arange(embeddings.shape[1]))
    expected = fixture.get(f"{label}_emb", fixture.get(f"{label}_emb_sub"))
    assert distance(embeddings[:, index], expected) < 1e-5
    for row in timestamps:
        assert distance(row, fixture[f"{label}_ts"]) < 1e-3  # float32 milliseconds up to 10^4


def test_adamw_steps():
    fixture, model = load("train_trajectory_mwmae_tiny.npz"), reference_model("mwmae")
    # 1e-3 for a batch of 2
    changes = ["preset=mwmae-tiny", "steps=8", "warmup_ratio=0.5", "decay_ratio=0.5"]
    changes += ["batch_size=2", "base_learning_rate=0.128"]
    recipe = Recipe.read("audioset", changes)
    (optimizer,) = make_optimizers(model, recipe)
    initial = {name: p.detach().clone() for name, p in model.named_parameters()}
    x, noise = spectrogram(4321), torch.from_numpy(load("mae_forward_mwmae_tiny.npz")["noise"])
    expected = zip(fixture["losses_f64"], fixture["lrs_f64"], strict=True)
    for step, (loss, rate) in enumerate(expected):
        ours_rate = recipe.learning_rates[0] * schedule(step, recipe, recipe.warmup_steps)
        assert ours_rate == pytest.approx(float(rate), rel=1e-5, abs=1e-12)
        optimizer.param_groups[0]["lr"] = ours_rate
        out = model(x, noise)
        assert out.loss.item() == pytest.approx(float(loss), abs=2e-6)
        out.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    final = dict(model.named_parameters())
    deltas = [
        (final[ours(path)] - initial[ours(path)]).double().norm().item()
        for path in fixture["names"]
    ]
    assert deltas == pytest.approx(list(fixture["delta_l2_stats"]), rel=2e-3)
    for key, value in fixture.items():
        if key.startswith("final:"):
            weight = final[ours(key.removeprefix("final:"))]
            assert distance(weight.view(value.shape), value) < 1e-4


def test_converted_checkpoint():
    expected = load("official_checkpoint/expected.npz")
    model = hear_mwmae.load_model(str(CHECKPOINT), timestamps="official")
    with torch.no_grad():
        features = model.encoder.forward_features(spectrogram(1234))
    assert distance(features, expected["features"]) < 1e-5
    for label in ("0.50s", "2.00s", "3.37s"):
        scene = hear_mwmae.get_scene_embeddings(waveform(label), model)
        assert distance(scene, expected[f"scene_{label}"]) < 1e-5
        _, timestamps = hear_mwmae.get_timestamp_embeddings(waveform(label), model)
        assert timestamps.shape[1] == expected[f"n_timestamps_{label}"]


def test_a_checkpoints_own_position_tables_are_used(tmp_path):
    """Training moves them.

    The test checkpoint still has the initial ones, so they are moved in a copy of the file.
    """
    _, state = read_model(CHECKPOINT)
    content, moved = CHECKPOINT.read_bytes(), {}
    for name in ("encoder.pos_embed", "decoder.decoder_pos_embed"):
        stored = state[name].numpy().tobytes()
        assert content.count(stored) == 1
        noise = torch.randn(state[name].shape, generator=torch.Generator().manual_seed(0))
        moved[name] = state[name] + 0.1 * noise
        content = content.replace(stored, moved[name].numpy().tobytes())
    (tmp_path / "checkpoint").write_bytes(content)
    initial, model = map(hear_mwmae.load_model, (CHECKPOINT, tmp_path / "checkpoint"))
    autoencoder = MaskedAutoencoder.from_pretrained(str(tmp_path / "checkpoint"))
    assert torch.equal(model.encoder.pos_embed, moved["encoder.pos_embed"])
    assert torch.equal(autoencoder.encoder.pos_embed, moved["encoder.pos_embed"])
    assert torch.equal(autoencoder.decoder.decoder_pos_embed, moved["decoder.decoder_pos_embed"])
    before, after = (
        m.encoder.forward_features(spectrogram(1234)).detach() for m in (initial, model)
    )
    assert distance(before, after.numpy()) > 0.01
