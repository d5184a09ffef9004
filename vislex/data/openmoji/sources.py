"""Where the drawings come from, and what identifies a build of the suite."""

from __future__ import annotations

import functools
import hashlib
import logging

from vislex.data.openmoji.draws import SUITE_VERSION
from vislex.data.openmoji.manifest import manifest_sha256

__all__ = ["RENDER_SHA256", "attribution", "provenance"]

logger = logging.getLogger(__name__)

# Of the first test_seen images at 64 px, by the versions that the suite was made with.
RENDER_SHA256 = "a0c8b51790baaf43050d4426af4da2b5371233f8cf1856460d9f923516a95799"
_RENDERED = 8


@functools.cache
def _render_sha256() -> str:
    from vislex.data.openmoji.render import render_scene
    from vislex.data.openmoji.scenes import sample_scene

    digest = hashlib.sha256()
    for index in range(_RENDERED):
        digest.update(render_scene(sample_scene(0, "test_seen", "default", index), 64).tobytes())
    return digest.hexdigest()


def provenance() -> dict[str, str]:
    """Suite version, and the hashes of the manifest and of a few renders; goes into every result and checkpoint.

    Other renders than the reference (another version of a drawing package or of the rasteriser) only log a warning.
    """
    rendered = _render_sha256()
    if rendered != RENDER_SHA256:
        logger.warning(
            "the suite %s renders other pixels here (%s...) than where it was made (%s...); rows are the same",
            SUITE_VERSION,
            rendered[:12],
            RENDER_SHA256[:12],
        )
    return {"suite": SUITE_VERSION, "manifest_sha256": manifest_sha256(), "render_sha256": rendered}


def attribution() -> str:
    """The credit line that every report with drawings carries."""
    return (
        "Drawings: OpenMoji - the open-source emoji and icon project (openmoji.org), CC BY-SA 4.0; "
        "Twemoji by Twitter, Inc and other contributors (github.com/twitter/twemoji), CC BY 4.0. "
        "Rotated, recoloured and composed into scenes by vislex; the images are shared under CC BY-SA 4.0."
    )
