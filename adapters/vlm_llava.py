"""LLaVA and LLaVA-1.5 (arXiv 2304.08485, 2310.03744) as a ``VisionLanguageModel``, and back."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor, PreTrainedModel

from vislex.adapters.chat import IMAGE_TOKEN, multimodal_template
from vislex.adapters.projections import MLPConfig, MLPConnector
from vislex.adapters.vlm_parts import encoder_around, fill_host, llm_around, stock_tower
from vislex.adapters.vlm_processing import VisionLanguageProcessor
from vislex.encoders.hf import HFEncoder
from vislex.errors import CheckpointError
from vislex.specs import token_count

if TYPE_CHECKING:
    from vislex.adapters.vlm import VisionLanguageModel

__all__ = ["TEMPLATE", "build", "parts_of", "refusal"]

_BOS = "{{ bos_token }}"  # a host's tokenizer writes it, prompts of vislex write it themselves
# Templates of hosts read contents that are lists; turns of training data are texts.
_AS_PARTS = (
    "{%- set listed = namespace(messages=[]) -%}{%- for message in messages -%}"
    "{%- set parts = [{'type': 'text', 'text': message.content}] if message.content is string else message.content -%}"
    "{%- set listed.messages = listed.messages + [{'role': message.role, 'content': parts}] -%}{%- endfor -%}"
    "{%- set messages = listed.messages -%}"
)
# The dialogue of LLaVA-1.5, for checkpoints that have no template: "USER: <image>\nquestion ASSISTANT: answer".
TEMPLATE = multimodal_template(
    "{%- for message in messages -%}"
    "{%- if message.role != 'system' -%}{{ message.role.upper() + ': ' }}{%- endif -%}"
    "{%- if message.role == 'assistant' -%}{% generation %}{{ message.content + eos_token }}{% endgeneration %}"
    "{%- else -%}{{ message.content.replace('IMAGE\\n', 'IMAGE').replace('IMAGE', 'IMAGE\\n') + ' ' }}{%- endif -%}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}".replace("IMAGE", IMAGE_TOKEN)
)


def parts_of(host: LlavaForConditionalGeneration, processor: Any, preprocessing: dict[str, Any]) -> dict[str, Any]:
    """Encoder, connector, language model, processor and attention of a LLaVA.

    Raises:
        CheckpointError: If it has parts that vislex does not, or reads its tower in a way that vislex does not.
    """
    config, tower = host.config, host.model.vision_tower
    layer = config.vision_feature_layer
    if not isinstance(layer, int):
        raise CheckpointError(f"it joins the layers {layer} of its tower; an encoder of vislex has one")
    if layer == 0:
        raise CheckpointError(
            "it reads the embedding of its tower, before the first layer; an encoder of vislex does not"
        )
    if config.projector_hidden_act != "gelu":
        raise CheckpointError(f"its projector has the activation '{config.projector_hidden_act}', vislex's has gelu")
    where: dict[str, Any] = {"layer": layer - 1 if layer > 0 else layer}
    if layer == -1 and getattr(tower.config, "tie_last_hidden_states", None):
        where = {"layer": None}
    encoder = encoder_around(tower, preprocessing, **where)
    dropped = int(config.vision_feature_select_strategy == "default")
    n_prefix = encoder.spec.n_prefix
    if dropped and n_prefix != 1:
        raise CheckpointError(
            f"it leaves out the first token of its tower, which has {n_prefix} that stand for no patch; set "
            "vision_feature_select_strategy to 'full' if it was trained so"
        )
    if n_prefix and not dropped:
        encoder = encoder_around(tower, preprocessing, keep_prefix=True, **where)
    projector = host.model.multi_modal_projector
    connector = MLPConnector(
        MLPConfig(spec=encoder.spec.to_dict(), out_dim=projector.linear_1.out_features, norm=False)
    )
    _copy_linear(connector.mlp[0].linear, projector.linear_1)
    _copy_linear(connector.mlp[2], projector.linear_2)
    return {
        "encoder": encoder,
        "connector": connector.to(host.dtype).eval(),
        "llm": llm_around(host),
        "processor": VisionLanguageProcessor(
            processor.image_processor,
            processor.tokenizer,
            connector.config.to_dict(),
            chat_template=_template(processor),
        ),
        "attention": "causal",
    }


def refusal(model: VisionLanguageModel) -> str | None:
    """Why a model cannot be written as a LLaVA; None if it can."""
    connector, encoder, spec = model.connector, model.encoder, model.encoder.spec
    if (reason := stock_tower(model)) is not None:
        return reason
    if spec.n_prefix > 1:
        return f"it leaves out one token of its tower at most, this encoder {spec.n_prefix}"
    if spec.patch_size is None or (spec.grid is None and not encoder.config.keep_prefix):
        return "it counts patches, and this encoder has none"
    if type(connector) is not MLPConnector or connector.config.norm:
        return "its connector is two linear maps ('mlp' with norm=False)"
    if connector.config.hidden_size not in (None, connector.config.out_dim):
        return f"its connector has no width of its own, this one is {connector.config.hidden_size} wide"
    if model.config.attention != "causal":
        return f"it is causal, this model's attention is '{model.config.attention}'"
    if getattr(model.llm.get_output_embeddings(), "bias", None) is not None:
        return f"the head of its language model has no bias, that of this '{model.llm.config.model_type}' has one"
    return None


def build(model: VisionLanguageModel) -> tuple[PreTrainedModel, Any]:
    """The LLaVA of a model's weights, and its processor."""
    encoder: HFEncoder = model.encoder
    spec, layer = encoder.spec, encoder.config.layer
    vision, text = copy.deepcopy(encoder.backbone.config), copy.deepcopy(model.llm.config)
    if layer is None:  # the last layer with the tower's final norm
        vision.tie_last_hidden_states = encoder.backbone.config.tie_last_hidden_states = True
    strategy = "default" if spec.n_prefix else "full"
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=model.config.image_token_id,
        image_seq_length=token_count(spec.count()),
        vision_feature_select_strategy=strategy,
        vision_feature_layer=-1 if layer is None else layer + 1 if layer >= 0 else layer,
        tie_word_embeddings=bool(text.tie_word_embeddings),
    )
    with torch.device("meta"):
        host = LlavaForConditionalGeneration(config)
    fill_host(host, model)
    host.model.multi_modal_projector.linear_1 = model.connector.mlp[0].linear
    host.model.multi_modal_projector.linear_2 = model.connector.mlp[2]
    own = model.processor
    processor = LlavaProcessor(
        copy.deepcopy(own.image_processor),
        copy.deepcopy(own.tokenizer),
        patch_size=spec.patch_size,
        vision_feature_select_strategy=strategy,
        chat_template=_host_template(own),
        num_additional_image_tokens=encoder.family.n_prefix(vision),
    )
    return host.eval(), processor


def _copy_linear(target: torch.nn.Linear, source: torch.nn.Linear) -> None:
    """Shares a linear map; a bias that the host does not have is zero."""
    target.weight = source.weight
    if source.bias is None:
        torch.nn.init.zeros_(target.bias)
    else:
        target.bias = source.bias


def _template(processor: Any) -> str:
    """The host's template, which also takes turns that are texts and begins as its tokenizer does."""
    tokenizer = processor.tokenizer
    if processor.chat_template is not None:
        template = _AS_PARTS + processor.chat_template
    elif tokenizer.chat_template is not None:
        template = multimodal_template(tokenizer.chat_template)
    else:
        template = TEMPLATE
    written = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], chat_template=template, tokenize=False)
    return template if not _writes_bos(tokenizer) or written.startswith(tokenizer.bos_token) else _BOS + template


def _host_template(processor: VisionLanguageProcessor) -> str:
    """The way back: without what ``_template`` put before it."""
    template: str = processor.chat_template
    if _writes_bos(processor.tokenizer):
        template = template.removeprefix(_BOS)
    return template.removeprefix(_AS_PARTS)


def _writes_bos(tokenizer: Any) -> bool:
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]
