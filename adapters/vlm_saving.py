"""How the parts of a vision-language model are saved: by value or by reference, with source and checksum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vislex.adapters.llms import embedding_rows, llm_source, rebuild_llm
from vislex.composite import encoder_is_its_source, same_weights
from vislex.encoders.sources import is_untrained
from vislex.errors import CheckpointError
from vislex.hub import model_card
from vislex.modules.digest import weights_digest

if TYPE_CHECKING:
    from vislex.adapters.vlm import VisionLanguageModel

__all__ = ["load_llm_from_source", "record_parts", "vlm_card"]


def record_parts(model: VisionLanguageModel, *, standalone: bool = False) -> dict[str, dict[str, Any]]:
    """What the config says of each part: ``by`` value or reference, ``source``, ``trainable``, and ``sha256``."""
    parts: dict[str, dict[str, Any]] = {}
    for name in ("encoder", "connector", "llm", "mask_head"):
        part = getattr(model, name)
        if part is None:
            continue
        parts[name] = {
            "by": "value",
            "trainable": any(parameter.requires_grad for parameter in part.parameters()),
            "sha256": weights_digest(part),
        }
    if model.encoder.config.source:
        parts["encoder"]["source"] = model.encoder.config.source
    if not standalone and encoder_is_its_source(model.encoder):
        parts["encoder"]["by"] = "reference"
    if not parts["llm"]["trainable"] and (source := _verified_source(model)):
        parts["llm"]["source"] = source
        parts["llm"]["by"] = "value" if standalone else "reference"
    return parts


def load_llm_from_source(model: VisionLanguageModel) -> None:
    """Puts the recorded weights into the language model and freezes it.

    Raises:
        CheckpointError: If they are gone, have changed, or do not fit.
    """
    source = (model.config.parts or {})["llm"].get("source")
    if source is None:
        raise CheckpointError("the language model is saved by reference but its source is not recorded; it is damaged")
    theirs = rebuild_llm(source, embedding_rows(model.llm))
    try:
        model.llm.load_state_dict(theirs.state_dict())
    except RuntimeError as error:
        raise CheckpointError(
            f"the language model '{source['location']}' does not fit the one that this model was trained with: "
            f"{str(error).splitlines()[-1].strip()}"
        ) from error
    model.llm.requires_grad_(False)


def vlm_card(model: VisionLanguageModel) -> str:
    """README.md of a saved model."""
    encoder, parts = model.encoder.config, model.config.parts or {}
    note = "untrained, " if is_untrained(encoder) else ""
    facts = {
        "Encoder": f"`{encoder.name or encoder.model_type}`, {note}saved by {parts['encoder']['by']}",
        "Connector": f"`{model.connector.config.model_type.removeprefix('vislex_connector_')}`",
        "Language model": f"`{model.llm.config.model_type}`, saved by {parts['llm']['by']}",
        "Attention": model.config.attention,
        **({} if model.config.codec is None else {"Masks": f"codec `{model.config.codec}`"}),
        "Parameters": f"{sum(p.numel() for p in model.parameters()):,}",
    }
    usage = 'import vislex\n\nmodel = vislex.VisionLanguageModel.from_pretrained("THIS_FOLDER")\n'
    usage += 'print(model.ask("image.png", "What is shown?")[0].text)'
    return model_card("Vision-language model", facts, usage, model.card_notes)


def _verified_source(model: VisionLanguageModel) -> dict[str, Any] | None:
    """The source of a language model, if it gives the very weights that the model holds."""
    recorded = (model.config.parts or {}).get("llm", {}).get("source") or llm_source(model.llm)
    if recorded is None:
        return None
    try:
        theirs = rebuild_llm({**recorded, "sha256": None}, embedding_rows(model.llm))
    except CheckpointError:
        return None
    return {**recorded, "sha256": weights_digest(theirs)} if same_weights(model.llm, theirs) else None
