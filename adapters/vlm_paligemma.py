"""PaliGemma 1 and 2 (arXiv 2407.07726, 2412.03555) as a ``VisionLanguageModel``, and back.

transformers' ``PaliGemmaModel`` puts projected features among embeddings that Gemma has scaled by the square root of
their width already: features and words meet here as they meet there, and neither side scales anything more. Its
positions begin at 1; rotary positions count differences alone, so that ours, which begin at 0, give the same logits.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration, PaliGemmaProcessor, PreTrainedModel

from vislex.adapters.chat import IMAGE_TOKEN, multimodal_template
from vislex.adapters.projections import LinearConfig, LinearConnector
from vislex.adapters.vlm_parts import encoder_around, fill_host, llm_around, stock_tower
from vislex.adapters.vlm_processing import VisionLanguageProcessor
from vislex.errors import CheckpointError
from vislex.specs import token_count

if TYPE_CHECKING:
    from vislex.adapters.vlm import VisionLanguageModel

__all__ = ["TEMPLATE", "build", "parts_of", "refusal"]

LANGUAGE_MODELS = ("gemma", "gemma2")

# What PaliGemma's processor writes around a prompt: images, <bos>, the prompt and a line break, then the answer.
TEMPLATE = multimodal_template(
    "{%- for message in messages -%}"
    "{%- if message.role == 'assistant' -%}{% generation %}{{ message.content + eos_token }}{% endgeneration %}"
    "{%- elif message.role == 'user' and loop.first -%}"
    "{{ 'IMAGE' * message.content.count('IMAGE') + bos_token }}"
    "{{ message.content.replace('IMAGE\\n', '').replace('IMAGE', '') + '\\n' }}"
    "{%- else -%}{{ raise_exception('PaliGemma takes one question and no system prompt') }}{%- endif -%}"
    "{%- endfor -%}".replace("IMAGE", IMAGE_TOKEN)
)


def parts_of(host: PaliGemmaForConditionalGeneration, processor: Any, preprocessing: dict[str, Any]) -> dict[str, Any]:
    """Encoder, connector, language model, processor and attention of a PaliGemma.

    Raises:
        CheckpointError: If it has parts that vislex does not.
    """
    has_prefix = encoder_around(host.model.vision_tower, preprocessing).spec.n_prefix > 0
    encoder = encoder_around(host.model.vision_tower, preprocessing, keep_prefix=has_prefix)
    linear = host.model.multi_modal_projector.linear
    connector = LinearConnector(LinearConfig(spec=encoder.spec.to_dict(), out_dim=linear.out_features, norm=False))
    connector.projection.linear = linear
    count = token_count(connector.count(encoder.spec.count()))
    if processor.image_seq_length != count:
        raise CheckpointError(
            f"its processor writes {processor.image_seq_length} tokens an image, its tower gives {count}; it is damaged"
        )
    return {
        "encoder": encoder,
        "connector": connector.eval(),
        "llm": llm_around(host),
        "processor": VisionLanguageProcessor(
            processor.image_processor, processor.tokenizer, connector.config.to_dict(), chat_template=TEMPLATE
        ),
        "attention": "prefix",
    }


def refusal(model: VisionLanguageModel) -> str | None:
    """Why a model cannot be written as a PaliGemma; None if it can."""
    connector, tokenizer, spec = model.connector, model.processor.tokenizer, model.encoder.spec
    if (reason := stock_tower(model)) is not None:
        return reason
    if spec.n_prefix > 0:
        return f"it reads every token of its tower, this encoder leaves out {spec.n_prefix}"
    if model.encoder.config.layer is not None:
        return f"it reads the last layer, this encoder layer {model.encoder.config.layer}"
    if not isinstance(connector, LinearConnector) or connector.config.norm:
        return "its connector is one linear map ('linear' with norm=False)"
    if model.config.attention != "prefix":
        return "its prompts see each other in both directions, this model is causal"
    if model.llm.config.model_type not in LANGUAGE_MODELS:
        return f"its language model is {' or '.join(LANGUAGE_MODELS)}, not '{model.llm.config.model_type}'"
    own = model.processor.prompt("a", 1)
    if own != (theirs := f"{IMAGE_TOKEN}{tokenizer.bos_token}a\n"):
        return f"it writes prompts as {theirs!r}, this model as {own!r}"
    rows, needed = model.get_input_embeddings().weight.shape[0], len(_processor(model).tokenizer)
    if needed > rows:
        return f"its tokenizer has {needed} entries with those for places and masks, this model's embedding {rows}"
    return None


def build(model: VisionLanguageModel) -> tuple[PreTrainedModel, Any]:
    """The PaliGemma of a model's weights, and its processor."""
    text = copy.deepcopy(model.llm.config)
    config = PaliGemmaConfig(
        vision_config=copy.deepcopy(model.encoder.backbone.config),
        text_config=text,
        image_token_index=model.config.image_token_id,
        vocab_size=text.vocab_size,
        projection_dim=text.hidden_size,
        hidden_size=text.hidden_size,
        tie_word_embeddings=bool(text.tie_word_embeddings),
    )
    with torch.device("meta"):
        host = PaliGemmaForConditionalGeneration(config)
    fill_host(host, model)
    host.model.multi_modal_projector.linear = model.connector.projection.linear
    return host.eval(), _processor(model)


def _processor(model: VisionLanguageModel) -> PaliGemmaProcessor:
    image_processor = copy.deepcopy(model.processor.image_processor)
    image_processor.image_seq_length = token_count(model.connector.count(model.encoder.spec.count()))
    return PaliGemmaProcessor(image_processor, copy.deepcopy(model.processor.tokenizer))
