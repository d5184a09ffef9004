"""Every text-to-image family against its stock pipeline: conditions, losses, latents, folders and refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vislex.diffusion.objectives import NoiseDraw, ReconstructionObjective
from vislex.diffusion.t2i import TextToImage, load_t2i
from vislex.diffusion.t2i.folder import folder_digest
from vislex.errors import CheckpointError, ConfigError, SpecError, UnknownNameError
from vislex.listing import list_t2i
from vislex.metrics.image_features import as_uint8
from vislex.metrics.reader import load_reader
from vislex.recipes.obedience import draw_images, obedience, single_object_prompts

NAMES = [
    "sd15",
    "sd21",
    "sdxl",
    "sd3",
    "sd3-no-t5",
    "flux-dev",
    "flux-schnell",
    "pixart-alpha",
    "pixart-alpha-1024",
    "pixart-sigma",
    "pixart-pixels",
    "pixart-latents",
    "sana",
    "if",
]
PROMPTS = ["a red dog on the left", "two blue kite"]
Build = Callable[..., TextToImage]


def latents_of(model: TextToImage, rows: int = 2) -> Tensor:
    channels = model.denoiser.config.in_channels
    if model.pipeline_name == "FluxPipeline":
        channels //= 4
    side = model.image_size // model.vae_scale
    return torch.randn(rows, channels, side, side, generator=torch.Generator().manual_seed(1))


def stock_prediction(model: TextToImage, noisy: Tensor, t: Tensor) -> Tensor:
    """The denoiser called as in the loop of the stock pipeline, with the stock pipeline's own conditions."""
    pipe = model.pipeline()
    name, net = model.pipeline_name, model.denoiser
    with torch.no_grad():
        if name == "StableDiffusionPipeline":
            embeds, _ = pipe.encode_prompt(PROMPTS, "cpu", 1, False)
            return net(noisy, t, encoder_hidden_states=embeds, return_dict=False)[0]
        if name == "StableDiffusionXLPipeline":
            embeds, _, pooled, _ = pipe.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
            ids = pipe._get_add_time_ids((16, 16), (0, 0), (16, 16), torch.float32, 12)
            added = {"text_embeds": pooled, "time_ids": ids.repeat(2, 1)}
            return net(noisy, t, encoder_hidden_states=embeds, added_cond_kwargs=added, return_dict=False)[0]
        if name == "StableDiffusion3Pipeline":
            embeds, _, pooled, _ = pipe.encode_prompt(
                PROMPTS, None, None, do_classifier_free_guidance=False, max_sequence_length=24
            )
            return net(noisy, embeds, pooled, t, return_dict=False)[0]
        if name == "FluxPipeline":
            embeds, pooled, ids = pipe.encode_prompt(PROMPTS, max_sequence_length=24)
            packed = pipe._pack_latents(noisy, 2, 4, 8, 8)
            places = pipe._prepare_latent_image_ids(2, 4, 4, "cpu", torch.float32)
            guidance = torch.full([2], 3.5) if net.config.guidance_embeds else None
            output = net(packed, embeds, pooled, t / 1000, places, ids, guidance, return_dict=False)[0]
            return pipe._unpack_latents(output, 16, 16, 2)
        if name.startswith("PixArt"):
            embeds, mask, _, _ = pipe.encode_prompt(PROMPTS, False, max_sequence_length=24)
            added: dict[str, Any] = {"resolution": None, "aspect_ratio": None}
            if net.config.sample_size == 128:
                added = {"resolution": torch.tensor([[16.0, 16.0]] * 2), "aspect_ratio": torch.ones(2, 1)}
            output = net(noisy, embeds, t, added, encoder_attention_mask=mask, return_dict=False)[0]
            return output.chunk(2, dim=1)[0] if output.shape[1] == 2 * noisy.shape[1] else output
        if name == "SanaPipeline":
            embeds, mask, _, _ = pipe.encode_prompt(PROMPTS, False, max_sequence_length=24)
            return net(noisy, embeds, t * 0.5, encoder_attention_mask=mask, return_dict=False)[0]
        assert name == "IFPipeline"
        embeds = encode_if(pipe)
        return net(noisy, t, encoder_hidden_states=embeds, return_dict=False)[0].split(3, dim=1)[0]


def encode_if(pipe: Any) -> Tensor:
    """IF's pipeline pads to 77 tokens whatever its tokenizer can; the tiny one reads 24."""
    real = pipe.tokenizer
    pipe.tokenizer = lambda text, max_length=None, **more: real(text, max_length=24, **more)
    try:
        return pipe.encode_prompt(PROMPTS, False)[0]
    finally:
        pipe.tokenizer = real


def stock_target(model: TextToImage, clean: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Noised latents and target, from diffusers' own schedulers."""
    config = model.scheduler.config
    if model.process.is_flow:
        sigma = t[:, None, None, None] / 1000
        return (1 - sigma) * clean + sigma * noise, noise - clean
    scheduler = diffusers.DDPMScheduler.from_config(config)
    noisy = scheduler.add_noise(clean, noise, t)
    if config.prediction_type == "v_prediction":
        return noisy, scheduler.get_velocity(clean, noise, t)
    return noisy, clean if config.prediction_type == "sample" else noise


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_of_a_prompt_is_the_stock_pipelines(tiny_t2i: Build, name: str) -> None:
    model = tiny_t2i(name)
    clean = latents_of(model)
    noise = torch.randn_like(clean)
    t = torch.tensor([125.0, 800.0]) if model.process.is_flow else torch.tensor([12, 80])
    noisy, target = stock_target(model, clean, noise, t)
    expected = F.mse_loss(stock_prediction(model, noisy, t), target)
    output = ReconstructionObjective()(model, clean, model.condition(PROMPTS), NoiseDraw(t, noise))
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    swapped = ReconstructionObjective()(model, clean, model.condition(PROMPTS[::-1]), NoiseDraw(t, noise))
    assert abs(swapped.loss.item() - output.loss.item()) > 1e-6  # the condition matters


@pytest.mark.parametrize("name", NAMES)
def test_soft_tokens_of_a_prompts_own_words_give_its_condition(tiny_t2i: Build, name: str) -> None:
    model = tiny_t2i(name)
    prompt = "a red dog on the left"
    expected = model.condition([prompt])
    vectors = torch.cat([text.embed(torch.tensor(text.word_ids([prompt]))) for text in model.texts], dim=-1)
    whole = model.condition_from_soft_tokens(vectors)
    half = model.condition_from_soft_tokens(vectors[:, :4], prompts=["the left"])
    behind = model.condition_from_soft_tokens(vectors[:, 4:], prompts=["a red dog on"], order="text_first")
    masked = model.condition_from_soft_tokens(
        torch.cat([vectors, torch.ones_like(vectors[:, :2])], 1), mask=torch.tensor([[True] * 6 + [False] * 2])
    )
    for found in (whole, half, behind, masked):
        for key, value in vars(expected).items():
            if value is None:
                assert getattr(found, key) is None
            else:
                torch.testing.assert_close(getattr(found, key), value, rtol=1e-5, atol=1e-6)
    other = model.condition_from_soft_tokens(vectors.flip(1))
    assert (other.prompt_embeds - expected.prompt_embeds).abs().max() > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_without_padding_the_prediction_is_the_same(tiny_t2i: Build, name: str) -> None:
    model = tiny_t2i(name)
    noisy, t = latents_of(model), torch.tensor([12, 80])
    tokens = torch.randn(2, 3, sum(model.widths), generator=torch.Generator().manual_seed(0))
    kept = torch.tensor([[True, True, False], [True, False, False]])
    assert model.hides_padding == name.startswith("pixart")
    with torch.no_grad():
        found, wanted = (model.predict(noisy, t, model.condition(PROMPTS, padded=padded)) for padded in (False, True))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert model.condition(["red"], padded=False).prompt_embeds.shape[1] == (
        2 if model.hides_padding else model.condition(["red"]).prompt_embeds.shape[1]
    )
    for inject in ("input", "output") if len(model.texts) == 1 else ("input",):
        given: Any = (tokens, kept, ["a red dog", ""], "visual_first", inject)
        whole, short = model.condition_from_soft_tokens(*given), model.condition_from_soft_tokens(*given, padded=False)
        expected = 6 if model.hides_padding else whole.prompt_embeds.shape[1]  # two tokens, three words, the end
        assert short.prompt_embeds.shape[1] == expected
        with torch.no_grad():
            found, wanted = (model.predict(noisy, t, condition) for condition in (short, whole))
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_soft_tokens_and_nothing_frozen(tiny_t2i: Build, name: str) -> None:
    model = tiny_t2i(name).train()
    assert not model.training
    tokens = torch.randn(2, 3, sum(model.widths), requires_grad=True)
    output = ReconstructionObjective()(model, latents_of(model), model.condition_from_soft_tokens(tokens))
    output.loss.backward()
    assert tokens.grad is not None
    for part in tokens.grad.split(model.widths, dim=-1):  # of every text encoder
        assert (part.abs().amax(dim=(-1)) > 0).all()
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_opens_as_what_was_saved(tiny_t2i: Build, name: str, tmp_path: Path) -> None:
    model = tiny_t2i(name)
    model.save_pretrained(tmp_path)
    options = {
        key: value for key, value in (("max_length", model.max_length), ("image_size", model._image_size)) if value
    }
    loaded = load_t2i(tmp_path, **options)
    assert type(loaded) is type(model)
    assert loaded.pipeline_name == model.pipeline_name
    assert loaded.image_size == model.image_size
    assert loaded.sha256 == model.sha256
    latents, t = latents_of(model), torch.tensor([5, 60])
    with torch.no_grad():
        ours, theirs = (m.predict(latents, t, m.condition(PROMPTS)) for m in (model, loaded))
    assert torch.equal(ours, theirs)


def test_a_trainable_model_trains(tiny_t2i: Build) -> None:
    model = tiny_t2i("pixart-pixels")
    model.denoiser.requires_grad_(True)
    model.train()
    assert (model.transformer.training, model.text_encoder.training) == (True, False)
    model.requires_grad_(True).train()
    assert model.text_encoder.training
    objective = ReconstructionObjective(density="logit_normal", weighting="v")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    pixels = torch.zeros(4, 3, 8, 8)
    draw = objective.draw(model, pixels)
    losses = []
    for _ in range(5):
        loss = objective(model, pixels, model.condition(["a red dog"] * 4), draw).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("name", ["sd15", "sana", "sd3", "flux-dev", "pixart-pixels", "if"])
def test_latents_are_normalised_and_come_back(tiny_t2i: Build, name: str) -> None:
    model = tiny_t2i(name)
    pixels = torch.rand(1, 3, 16, 16) * 2 - 1
    latents = model.encode_pixels(pixels)
    if model.vae is None:
        assert torch.equal(latents, pixels)
        assert torch.equal(model.decode_latents(latents), pixels)
        return
    with torch.no_grad():
        encoded = model.vae.encode(pixels)
        raw = encoded.latent if name == "sana" else encoded.latent_dist.mode()
        decoded = model.vae.decode(raw).sample
    shift, scale = model.vae.config.get("shift_factor") or 0.0, model.vae.config.scaling_factor
    torch.testing.assert_close(latents, (raw - shift) * scale)
    torch.testing.assert_close(model.decode_latents(latents), decoded, rtol=1e-4, atol=1e-5)
    if name != "sana":
        drawn = model.encode_pixels(pixels, torch.Generator().manual_seed(0))
        assert not torch.equal(drawn, latents)


def test_the_families_are_listed() -> None:
    assert set(list_t2i("stable-*")) == {"stable-diffusion", "stable-diffusion-3", "stable-diffusion-xl"}
    assert {"flux", "pixart", "sana", "deepfloyd-if"} <= set(list_t2i())


def test_the_shipped_model_draws_what_it_is_told() -> None:
    t2i, reader = load_t2i("t2i-tiny"), load_reader()
    assert (t2i.image_size, t2i.pipeline_name) == (48, "PixArtAlphaPipeline")
    assert not any(parameter.requires_grad for parameter in t2i.parameters())
    prompts = single_object_prompts(24)
    options = {"guidance_scale": 3.0, "num_inference_steps": 15}
    read = obedience(reader, as_uint8(draw_images(t2i, prompts.texts, **options)), prompts)
    assert read["background"].mean() > 0.9
    assert read["concept"].mean() > 0.4
    empty = obedience(reader, as_uint8(draw_images(t2i, [""] * 24, **options)), prompts)
    assert empty["concept"].mean() < 0.2


def test_sanas_instruction_stands_before_the_prompt(tiny_t2i: Build) -> None:
    model = tiny_t2i("sana", instruction=["the dog", "of the "], max_length=8)
    pipe = model.pipeline()
    embeds, mask, _, _ = pipe.encode_prompt(
        ["a red cat"], False, max_sequence_length=8, complex_human_instruction=["the dog", "of the "]
    )
    found = model.condition(["a red cat"])
    torch.testing.assert_close(found.prompt_embeds, embeds)
    assert torch.equal(found.prompt_attention_mask, mask)
    vectors = model.texts[0].embed(torch.tensor(model.texts[0].word_ids(["a red cat"])))
    torch.testing.assert_close(model.condition_from_soft_tokens(vectors).prompt_embeds, embeds)
    assert model.max_soft_tokens == 6


def edit(folder: Path, file: str, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads((folder / file).read_text())
    change(values)
    (folder / file).write_text(json.dumps(values))


def test_bad_folders_are_refused(tiny_t2i: Build, tmp_path: Path) -> None:
    good = tmp_path / "good"
    tiny_t2i("sd15").save_pretrained(good)

    def broken(name: str) -> Path:
        return Path(shutil.copytree(good, tmp_path / name))

    with pytest.raises(CheckpointError, match="has no model_index"):
        load_t2i(tmp_path)
    with pytest.raises(UnknownNameError, match="neither a folder nor a hub id"):
        load_t2i("nowhere")
    with pytest.raises(CheckpointError, match="a family without weights"):
        load_t2i("sana")
    folder = broken("part")
    shutil.rmtree(folder / "text_encoder")
    with pytest.raises(CheckpointError, match="needs text_encoder, which it does not hold"):
        load_t2i(folder)
    folder = broken("family")
    edit(folder, "model_index.json", lambda index: index.update(_class_name="StableDiffusionXPipeline"))
    with pytest.raises(UnknownNameError, match="or 'StableDiffusionPipeline'"):
        load_t2i(folder)
    folder = broken("class")
    edit(folder, "model_index.json", lambda index: index.update(unet=["acme", "UNet"]))
    with pytest.raises(CheckpointError, match="unet is a 'UNet', but StableDiffusion takes UNet2DConditionModel"):
        load_t2i(folder)
    index = broken("index") / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    for content in (
        {"weight_map": [1]},
        {"weight_map": {"a": "../../secret"}},
        {"weight_map": {"a": "gone.safetensors"}},
    ):
        index.write_text(json.dumps(content))
        with pytest.raises(
            CheckpointError, match=r"where it lies|leads out of the folder|gone\.safetensors' cannot be read"
        ):
            folder_digest(index.parents[1])
    (index.parents[1] / "model_index.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_t2i(index.parents[1])
    folder = broken("prediction")
    edit(folder, "scheduler/scheduler_config.json", lambda config: config.update(prediction_type="trigflow"))
    with pytest.raises((ConfigError, CheckpointError), match="trigflow"):
        load_t2i(folder)
    folder = broken("code")
    edit(folder, "text_encoder/config.json", lambda config: config.update(auto_map={"AutoModel": "x.Y"}))
    with pytest.raises(CheckpointError, match="auto_map"):
        load_t2i(folder)
    folder = broken("weights")
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot load"):
        load_t2i(folder)


def test_bad_components_and_tokens_are_refused(tiny_t2i: Build) -> None:
    model = tiny_t2i("sd15")
    parts = {"text_encoder": model.text_encoder, "unet": model.unet, "vae": model.vae, **model.tokenizers}
    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ConfigError, match="prediction type 'flow'"):
        type(model)(**parts, scheduler=flow)
    with pytest.raises(ConfigError, match="needs the parts vae"):
        type(model)(**{**parts, "vae": None}, scheduler=model.scheduler)
    with pytest.raises(ConfigError, match="no part 'unett'; did you mean 'unet'"):
        type(model)(**parts, unett=model.unet, scheduler=model.scheduler)
    assert model.max_soft_tokens == 14
    with pytest.raises(SpecError, match=r"15 soft tokens do not fit.*at most 14"):
        model.condition_from_soft_tokens(torch.zeros(1, 15, 16))
    with pytest.raises(SpecError, match="shape"):
        model.condition_from_soft_tokens(torch.zeros(1, 3, 17))
    with pytest.raises(ConfigError, match="unknown order"):
        model.condition_from_soft_tokens(torch.zeros(1, 3, 16), order="first")
    with pytest.raises(ConfigError, match="1 prompts for 2 images"):
        model.condition_from_soft_tokens(torch.zeros(2, 3, 16), prompts=["a"])
    with pytest.raises(SpecError, match="1 conditions for 2 images"):
        ReconstructionObjective()(model, latents_of(model), model.condition("a"))
