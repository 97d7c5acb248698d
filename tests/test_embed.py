"""`model.embed`, `lengths`, streams, layers and gradients: what people do with a model beyond
HEAR's two functions.
"""

import numpy as np
import pytest
import soundfile
import torch
from reference import AUDIO
from test_hear_api import noise, tone

import hear_mwmae
from hear_mwmae.audio import read_audio, resample
from hear_mwmae.embedder import Embedder

PIANO, CROW = AUDIO / "piano.flac", AUDIO / "crow.wav"


@pytest.fixture(scope="module")
def small_model(small_config) -> Embedder:
    torch.manual_seed(0)
    return Embedder(small_config, pooling="mean+std+max")


def test_embed_takes_paths_arrays_and_tensors_of_any_length_and_rate(small_model, tmp_path):
    soundfile.write(tmp_path / "slow.wav", tone(11025, 300).numpy(), 11025)
    clips = [
        str(PIANO),
        CROW,
        noise(50000),
        {"array": noise(20000, 1).numpy(), "sampling_rate": 22050},
        noise(30000, 2).double().numpy(),
        tmp_path / "slow.wav",
    ]
    scenes = small_model.embed(clips)
    assert scenes.shape == (6, small_model.scene_embedding_size) and scenes.dtype == torch.float32
    audio = [
        read_audio(PIANO, 16000),
        read_audio(CROW, 16000),
        noise(50000),
        resample(noise(20000, 1), 22050, 16000),
        noise(30000, 2),
        read_audio(tmp_path / "slow.wav", 16000),
    ]
    alone = [hear_mwmae.get_scene_embeddings(clip[None], small_model) for clip in audio]
    assert (torch.cat(alone) - scenes).abs().max() < 1e-5


def test_embed_knows_the_home_folder(small_model, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    soundfile.write(tmp_path / "x.wav", noise(3000).numpy(), 16000)
    assert torch.equal(small_model.embed("~/x.wav"), small_model.embed(tmp_path / "x.wav"))


def test_what_cannot_be_embedded_is_named(small_model):
    for clips, message in (
        ([torch.zeros(2, 100)], r"shape \(samples,\), got shape \(2, 100\)"),
        ([noise(100), torch.zeros(0)], "clip 1: empty audio"),
    ):
        with pytest.raises(hear_mwmae.HearMwmaeError, match=message):
            small_model.embed(clips)


def test_lengths_cut_the_padding_off(small_model):
    clips = [noise(40000), tone(8000), noise(1, 3), noise(33333, 4)]
    padded = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    scenes = hear_mwmae.get_scene_embeddings(
        padded, small_model, lengths=[len(clip) for clip in clips]
    )
    tensors = hear_mwmae.get_scene_embeddings(
        padded, small_model, lengths=torch.tensor([len(clip) for clip in clips])
    )
    alone = torch.cat([hear_mwmae.get_scene_embeddings(clip[None], small_model) for clip in clips])
    assert (scenes - alone).abs().max() < 1e-5 and torch.equal(scenes, tensors)
    # Padding is no silence to the model: it changes how the clip is normalised.
    assert (small_model(padded)[1] - alone[1]).abs().max() > 1e-2


@pytest.mark.parametrize("lengths", [[1], [0, 5], [5, 101], [5, 2.0], 5])
def test_lengths_that_do_not_fit(small_model, lengths):
    with pytest.raises(
        ValueError, match="lengths must be the samples of each of the 2 clips, from 1 to 100"
    ):
        small_model(torch.zeros(2, 100), lengths)


def test_time_steps_have_no_lengths(small_model):
    with pytest.raises(ValueError, match="lengths are for scene embeddings"):
        small_model(torch.zeros(1, 100), [50], timestamps=True)


def test_layers_are_the_blocks_outputs(embedded_model):
    audio = torch.stack([noise(50000), tone(50000)])
    caught = []
    handle = embedded_model.encoder.blocks[3].register_forward_hook(
        lambda module, args, out: caught.append(out)
    )
    embedded_model(audio)
    handle.remove()
    third, last = embedded_model.layers(audio, [3, -1])
    size = embedded_model.timestamp_embedding_size
    tokens = caught[0].reshape(2, -1, size)
    assert third.shape == (2, 79, size) and (third - tokens[:, :79]).abs().max() < 1e-5
    normed = embedded_model.encoder.norm(
        last.view(2, 79, -1, embedded_model.config.encoder.width)
    ).flatten(2)
    steps = embedded_model(audio, timestamps=True)[0]
    assert (normed[:, : steps.shape[1]] - steps).abs().max() < 1e-4
    assert len(embedded_model.layers(audio)) == embedded_model.config.encoder.depth
    assert torch.equal(embedded_model.layers(audio, np.array([3]))[0], third)
    for blocks in ([12], 3, [1.5], []):
        with pytest.raises(ValueError, match="blocks must be a list of numbers from -12 to 11"):
            embedded_model.layers(audio, blocks)


def test_a_trainable_model_learns_through_scenes_and_time_steps():
    model = hear_mwmae.load_model(trainable=True, pooling="mean+std+max")
    for embeddings in (
        hear_mwmae.get_scene_embeddings(noise(40000)[None], model),
        hear_mwmae.get_timestamp_embeddings(noise(40000)[None], model)[0],
        model.embed(
            [noise(500), tone(640)]
        ),  # one time step: a deviation of zero, whose gradient must be finite
    ):
        model.zero_grad()
        embeddings.square().mean().backward()
        gradients = {name: weight.grad for name, weight in model.encoder.named_parameters()}
        assert all(grad is not None and grad.isfinite().all() for grad in gradients.values())
        assert gradients["blocks.0.attn.qkv.weight"].abs().max() > 0
    with torch.no_grad():
        assert not model(noise(4000)[None]).requires_grad
    assert not hear_mwmae.load_model()(noise(4000)[None]).requires_grad
    with pytest.warns(UserWarning, match="bfloat16 do not take small updates"):
        hear_mwmae.load_model(trainable=True, dtype="bfloat16")


def test_hooks_fire_and_compiling_takes_effect_through_the_hear_functions(small_model):
    fired, graphs = [], []
    modules = {
        "model": small_model,
        "frontend": small_model.frontend,
        "block": small_model.encoder.blocks[0],
    }
    handles = [
        part.register_forward_hook(lambda *_, name=name: fired.append(name))
        for name, part in modules.items()
    ]
    audio = noise(40000)[None]
    exact = hear_mwmae.get_scene_embeddings(audio, small_model)
    hear_mwmae.get_timestamp_embeddings(audio, small_model)
    for handle in handles:
        handle.remove()
    assert fired == ["frontend", "block", "model"] * 2

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(small_model, backend=backend)
    assert (hear_mwmae.get_scene_embeddings(audio, compiled) - exact).abs().max() < 1e-5
    assert any("scaled_dot_product_attention" in str(graph.graph) for graph in graphs)


@pytest.mark.parametrize("name", [path.name for path in sorted(AUDIO.iterdir())])
def test_the_level_matters_little(embedded_model, name):
    """As docs/audio.md says."""
    audio = read_audio(AUDIO / name, 16000)
    scenes = embedded_model.embed([audio, audio * 0.5, audio * 2, audio * 0.1])
    similar = torch.cosine_similarity(scenes[:1], scenes[1:])
    assert (similar >= torch.tensor([0.998, 0.998, 0.979])).all() and similar.max() < 0.99999


def test_device():
    assert hear_mwmae.load_model(device="cpu").encoder.pos_embed.device.type == "cpu"
    for device in ("tpu", "meta", "cuda:99", 1.5):
        with pytest.raises(ValueError, match=r"device .* cannot be used"):
            hear_mwmae.load_model(device=device)
