"""The throughput comparison on tiny models: both sides hold the same weights and do what is asked."""

from __future__ import annotations

import pytest
import torch

from vislex.benchmarks.vlm_throughput import build_pair, compare, inputs_of

TINY = {
    "vision": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    "image": {"image_size": 16, "patch_size": 8},
    "text": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
}


def test_both_sides_answer_and_learn_the_same() -> None:
    ours, theirs = build_pair(TINY)
    rows = compare(ours, theirs, batch_sizes=[1, 2], runs=2, new_tokens=3)
    assert [(row["batch size"], row["scope"]) for row in rows] == [
        (1, "generation"), (1, "training step"), (2, "generation"), (2, "training step"),
    ]  # fmt: skip
    for row in rows:
        assert len(row["ratios"]) == 2
        assert row["ratio"] == pytest.approx(row["LLaVA seconds"] / row["vislex seconds"])


def test_without_their_projectors_both_sides_are_one_model() -> None:
    ours, theirs = build_pair(TINY)
    theirs.model.multi_modal_projector = torch.nn.Identity()
    inputs = inputs_of(ours, 2)
    features = ours.encoder(inputs["pixel_values"]).tokens
    embeds = ours.get_input_embeddings()(inputs["input_ids"])
    is_image = (inputs["input_ids"] == ours.config.image_token_id)[..., None]
    embeds = embeds.masked_scatter(is_image, features)
    expected = theirs(**inputs).logits
    found = ours(inputs_embeds=embeds, attention_mask=inputs["attention_mask"]).logits
    assert (found - expected).abs().max() < 10 * expected.abs().max()  # of one scale
    torch.testing.assert_close(theirs.lm_head.weight, ours.llm.lm_head.weight)
    torch.testing.assert_close(
        theirs.model.vision_tower(inputs["pixel_values"]).last_hidden_state, features, rtol=1e-5, atol=1e-5
    )
