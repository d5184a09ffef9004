"""What lmms-eval reads of this package (entry point ``lmms_eval.models``): which class answers to ``--model vislex``.

One plug-in that fails to import keeps lmms-eval from reading the others, so that nothing else is imported here.
"""

from __future__ import annotations

from lmms_eval.models.registry_v2 import ModelManifest

__all__ = ["MANIFEST"]

MANIFEST = ModelManifest(model_id="vislex", chat_class_path="vislex.benchmarks.lmms_model.VislexLMM")
