"""Training a text-to-image model: the loss is the objective's own, and gradients arrive where they should."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vislex.diffusion.objectives import NoiseDraw, ReconstructionObjective
from vislex.training.t2i import TextToImageTraining


def batch(model: TextToImageTraining, prompts: list[str]) -> dict[str, Any]:
    inputs = model.t2i.texts[0].tokenize(prompts)
    latents = torch.randn(len(prompts), 3, 8, 8)
    return {"latents": latents, "input_ids": inputs.input_ids, "attention_mask": inputs.attention_mask}


def test_the_loss_is_the_objectives_and_follows_from_its_seed(tiny_t2i: Callable[..., Any]) -> None:
    model = TextToImageTraining(tiny_t2i("pixart-pixels"), ReconstructionObjective(weighting="v"))
    given = batch(model, ["a red dog", "two cat"])
    drawn = model.draw(given["latents"], 3)
    loss = model(**given, **drawn)
    condition = model.t2i.condition(["a red dog", "two cat"])
    expected = model.objective(model.t2i, given["latents"], condition, NoiseDraw(drawn["timesteps"], drawn["noise"]))
    torch.testing.assert_close(loss, expected.loss)
    again = model.draw(given["latents"], 3)
    assert torch.equal(again["noise"], drawn["noise"])
    assert not torch.equal(model.draw(given["latents"], 4)["noise"], drawn["noise"])


def test_text_encoder_and_denoiser_are_trained(tiny_t2i: Callable[..., Any]) -> None:
    model = TextToImageTraining(tiny_t2i("pixart-pixels"), ReconstructionObjective()).train()
    given = batch(model, ["a red dog"])
    model(**given, **model.draw(given["latents"], 0)).backward()
    assert model.get_input_embeddings().weight.grad.abs().sum() > 0
    without = [name for name, p in model.t2i.transformer.named_parameters() if p.grad is None]
    assert without == []


def test_an_autoencoder_stays_frozen(tiny_t2i: Callable[..., Any]) -> None:
    model = TextToImageTraining(tiny_t2i("pixart-alpha"), ReconstructionObjective())
    assert not any(p.requires_grad for p in model.t2i.vae.parameters())
    assert all(p.requires_grad for p in model.t2i.transformer.parameters())


def test_what_a_trainer_saves_can_be_loaded_again(tiny_t2i: Callable[..., Any], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = TextToImageTraining(tiny_t2i("pixart-pixels"), ReconstructionObjective())
    model.save_pretrained(tmp_path)
    other = TextToImageTraining(tiny_t2i("pixart-pixels"), ReconstructionObjective())
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    missing = other.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=False)
    assert all("embed_tokens" in name for name in missing.missing_keys)  # tied to the shared table
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
