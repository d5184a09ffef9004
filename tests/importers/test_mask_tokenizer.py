"""PaliGemma's mask tokenizer, written down here from its description with torch's functions alone, and the import."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vislex
from vislex.cli.main import main
from vislex.errors import CheckpointError
from vislex.importers.mask_tokenizer import import_mask_tokenizer

Arrays = dict[str, np.ndarray]


def conv(x: Tensor, arrays: Arrays, name: str, **options: int) -> Tensor:
    weight, bias = (torch.from_numpy(arrays[f"{name}.{part}"]) for part in ("weight", "bias"))
    return F.conv2d(x, weight, bias, **options)


def residual(x: Tensor, arrays: Arrays, name: str) -> Tensor:
    inner = conv(x, arrays, f"{name}.net.0", padding=1).relu()
    return x + conv(conv(inner, arrays, f"{name}.net.2", padding=1).relu(), arrays, f"{name}.net.4")


def encode(masks: Tensor, arrays: Arrays) -> Tensor:
    """int64[B, 16] of float[B, 64, 64] in [-1, 1]: indices 0, 2, 4, 6 halve, 8 and 9 are residual, 10 is 1 x 1."""
    x = masks[:, None]
    for index in (0, 2, 4, 6):
        x = conv(x, arrays, f"encoder.{index}", stride=2, padding=1).relu()
    for index in (8, 9):
        x = residual(x, arrays, f"encoder.{index}")
    x = conv(x, arrays, "encoder.10")  # [B, 512, 4, 4]
    book = torch.from_numpy(arrays["_vq_vae._embedding"])
    return torch.cdist(x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]), book).argmin(-1).reshape(len(masks), 16)


def decode(codes: Tensor, arrays: Arrays) -> Tensor:
    """float[B, 64, 64] of int64[B, 16]: index 0 is 1 x 1, 2 and 3 are residual, 4, 6, 8, 10 double, 12 is 1 x 1."""
    x = torch.from_numpy(arrays["_vq_vae._embedding"])[codes].reshape(len(codes), 4, 4, -1).permute(0, 3, 1, 2)
    x = conv(x, arrays, "decoder.0").relu()
    for index in (2, 3):
        x = residual(x, arrays, f"decoder.{index}")
    for index in (4, 6, 8, 10):
        weight, bias = (torch.from_numpy(arrays[f"decoder.{index}.{part}"]) for part in ("weight", "bias"))
        x = F.conv_transpose2d(x, weight, bias, stride=2, padding=1).relu()
    return conv(x, arrays, "decoder.12")[:, 0]


def released(widths: tuple[int, ...] = (16, 32, 64, 128), dim: int = 512, codes: int = 128) -> Arrays:
    rng = np.random.default_rng(0)
    arrays: Arrays = {}

    def add(name: str, shape: tuple[int, ...], bias: int) -> None:
        fan_in = np.prod(shape[1:])
        arrays[f"{name}.weight"] = (rng.standard_normal(shape) * (2 / fan_in) ** 0.5).astype(np.float32)
        arrays[f"{name}.bias"] = (0.1 * rng.standard_normal(bias)).astype(np.float32)

    a, b, c, d = widths
    for index, (before, after) in zip((0, 2, 4, 6), ((1, a), (a, b), (b, c), (c, d)), strict=True):
        add(f"encoder.{index}", (after, before, 4, 4), after)
    for side, places in (("encoder", (8, 9)), ("decoder", (2, 3))):
        for place in places:
            add(f"{side}.{place}.net.0", (d, d, 3, 3), d)
            add(f"{side}.{place}.net.2", (d, d, 3, 3), d)
            add(f"{side}.{place}.net.4", (d, d, 1, 1), d)
    add("encoder.10", (dim, d, 1, 1), dim)
    add("decoder.0", (d, dim, 1, 1), d)
    for index, (before, after) in zip((4, 6, 8, 10), ((d, d), (d, c), (c, b), (b, a)), strict=True):
        add(f"decoder.{index}", (before, after, 4, 4), after)
    add("decoder.12", (1, a, 1, 1), 1)
    arrays["_vq_vae._embedding"] = rng.standard_normal((codes, dim)).astype(np.float32)
    arrays["_vq_vae._ema_cluster_size"] = np.ones(codes, dtype=np.float32)
    return arrays


SMALL = {"widths": (4, 6, 8, 10), "dim": 12, "codes": 20}


def save(arrays: Arrays, path: Path) -> Path:
    np.savez(path, **arrays)
    return path


@torch.no_grad()
@pytest.mark.parametrize("sizes", [{}, SMALL])
def test_codes_and_masks_are_those_of_the_release(sizes: dict, tmp_path: Path) -> None:
    arrays = released(**sizes)
    model = import_mask_tokenizer(save(arrays, tmp_path / "vae-oid.npz"))
    masks = (F.interpolate(torch.rand(4, 1, 9, 9), (64, 64), mode="bilinear")[:, 0] > 0.5).float()
    codes = encode(masks * 2 - 1, arrays)
    assert len(codes.unique()) > 3
    assert np.array_equal(model.encode(masks.numpy()), codes.numpy())
    torch.testing.assert_close(torch.from_numpy(model.decode(codes.numpy())), decode(codes, arrays), rtol=0, atol=1e-4)
    assert (model.config.num_codes, model.num_tokens) == (sizes.get("codes", 128), 16)


def test_the_command_writes_a_folder_that_the_codec_opens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arrays = released(**SMALL)
    arrays["_vq_vae._embedding.weight"] = arrays.pop("_vq_vae._embedding")  # as nn.Embedding would name it
    save(arrays, tmp_path / "vae-oid.npz")
    assert main(["import", "vae-oid", "vae-oid.npz", "--out", "tokens"]) == 0
    shown = capsys.readouterr().out
    assert "20 codes of 12, 16 a mask" in shown
    assert "written to tokens; next: vislex.create_codec('loc_seg', tokenizer='tokens')" in shown
    codec = vislex.create_codec("loc_seg", tokenizer="tokens")
    mask = np.ones((30, 30), dtype=bool)
    assert codec.decode(codec.encode([mask]), (30, 30)).invalid is None
    assert main(["import", "vae-oid", "vae-oid.npz", "--out", "tokens"]) == 2
    assert "is there already; give a new folder" in capsys.readouterr().err


def without(*names: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {name: value for name, value in arrays.items() if name not in names}


def other(name: str, value: np.ndarray) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {**arrays, name: value}


ONES = np.ones((2, 2), dtype=np.float32)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without("_vq_vae._embedding"), "missing _vq_vae._embedding$"),
        (without("encoder.0.weight"), "missing encoder.0.weight$"),
        (without("decoder.12.bias", "encoder.8.net.0.bias"), "missing decoder.12.bias, encoder.8.net.0.bias$"),
        (other("decoder.14.weight", ONES), "unexpected decoder.14.weight$"),
        (other("decoder.12.bias", ONES), r"decoder.12.bias has shape \(2, 2\), expected \(1,\)"),
        (other("encoder.0.weight", ONES), r"encoder.0.weight has shape \(2, 2\) .* 4 x 4 kernels"),
        (other("_vq_vae._embedding", ONES[0]), r"the codebook \(2,\)"),
        (other("encoder.4.bias", np.array(["a"])), "encoder.4.bias is <U1; a mask tokenizer has numbers only"),
        (other("encoder.4.bias", np.full(8, np.nan)), "encoder.4.bias has values that are not finite"),
    ],
)
def test_files_that_do_not_fit(change: Callable[[Arrays], Arrays], reason: str, tmp_path: Path) -> None:
    path = save(change(released(**SMALL)), tmp_path / "wrong.npz")
    with pytest.raises(CheckpointError, match=reason) as error:
        import_mask_tokenizer(path)
    assert "\n" not in str(error.value)
    assert "wrong.npz" in str(error.value)


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return (Path.write_text, (self.target, "run"))


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = tmp_path / "evil.npz"
    np.savez(path, allow_pickle=True, **{"encoder.0.weight": np.array([Payload(trace)], dtype=object)})
    with pytest.raises(CheckpointError, match="damaged or no file of numbers: Object arrays cannot be loaded"):
        import_mask_tokenizer(path)
    path.write_bytes(pickle.dumps(Payload(trace)))
    with pytest.raises(CheckpointError, match="damaged or no file of numbers"):
        import_mask_tokenizer(path)
    assert not trace.exists()
    whole = save(released(**SMALL), tmp_path / "torn.npz")
    whole.write_bytes(whole.read_bytes()[:-200])
    for file, reason in ((whole, "damaged"), (tmp_path / "gone.npz", "no file"), (Path("a.pt"), "there is no file")):
        with pytest.raises(CheckpointError, match=reason):
            import_mask_tokenizer(file)
    (tmp_path / "a.pt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"is no \.npz file"):
        import_mask_tokenizer(tmp_path / "a.pt")


def test_a_file_that_unpacks_too_far_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vislex.importers.mask_tokenizer._MAX_BYTES", 1000)
    with pytest.raises(CheckpointError, match="at most 1,000 are read"):
        import_mask_tokenizer(save(released(**SMALL), tmp_path / "large.npz"))
