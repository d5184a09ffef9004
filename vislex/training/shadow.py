"""A training step without its numbers: floats are shapes on the meta device, whole numbers and masks stay real.

What a model decides by ids, counts and masks (how many image tokens a prompt has, which positions have a loss) is then
decided as in a real step, while a network of any size costs no memory. Below autograd, so that gradients flow, stop and
are saved for as in a real step.
"""

from __future__ import annotations

import weakref
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.hooks import RemovableHandle

from vislex.errors import ConfigError
from vislex.training.costs import tensors_in
from vislex.training.replay import Call, record

__all__ = ["Attention", "Autocast", "RealNumbers", "Saved", "Shadow", "Watch"]

META = torch.device("meta")
_COPY = "aten::_to_copy"
_BY_ARGUMENTS = {"aten::arange", "aten::full", "aten::scalar_tensor"}
_MUST_KNOW = {
    "aten::nonzero",
    "aten::masked_select",
    "aten::unique_consecutive",
    "aten::unique_dim",
    "aten::repeat_interleave",
}


class Shadow(TorchDispatchMode):
    """Runs operators on shapes where a float of the meta device takes part, and for real elsewhere.

    A number that is read from a shape is 1, and its values all differ. Use it with ``torch.device("meta")`` to build,
    without it to run.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        shaped = any(tensor.device == META for tensor in tensors_in((args, kwargs)))
        if not shaped:
            if _goes_to_meta(kwargs) and not _gives_float(name, args, kwargs):
                kwargs = {**kwargs, "device": torch.device("cpu")}
            return func(*args, **kwargs)
        if name == "aten::_local_scalar_dense":
            return torch.ones((), dtype=args[0].dtype).item()
        if name == "aten::_unique2":  # all may differ
            every = torch.arange(args[0].numel())
            return args[0].reshape(-1), every.view(args[0].shape), torch.ones_like(every)
        if name in _MUST_KNOW and (name != "aten::repeat_interleave" or args[0].device == META):
            raise ConfigError(f"this model computes how many values it goes on with ({name}), which shapes do not tell")
        if func._schema.is_mutable and isinstance(args[0], Tensor) and args[0].device != META:
            return args[0]  # values that are written into real ones; only whole numbers are read again
        if name in ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"):
            args = (args[0], [place for index in args[1] for place in _as_places(index)], *args[2:])
        if "device" in kwargs:
            kwargs = {**kwargs, "device": META}
        kwargs.pop("pin_memory", None)
        args, kwargs = tree_map_only(torch.Tensor, _shape_of, (args, kwargs))
        out = func(*args, **kwargs)
        if name == "aten::convolution" and _lies_channels_last(args[:2]):
            return torch.empty_like(out, memory_format=torch.channels_last)
        return out


def _lies_channels_last(tensors: Iterable[Tensor]) -> bool:
    """Whether one of them does, so that kernels give what they compute in the same order."""
    last = torch.channels_last
    return any(own.ndim == 4 and own.is_contiguous(memory_format=last) and not own.is_contiguous() for own in tensors)


def _goes_to_meta(kwargs: dict[str, Any]) -> bool:
    device = kwargs.get("device")
    return device is not None and torch.device(device) == META


def _gives_float(name: str, args: tuple, kwargs: dict[str, Any]) -> bool:
    if kwargs.get("dtype") is not None:
        dtype: torch.dtype = kwargs["dtype"]
        return dtype.is_floating_point or dtype.is_complex
    if args and isinstance(args[0], Tensor):
        return args[0].is_floating_point()
    if name in _BY_ARGUMENTS:
        numbers = args[1:2] if name == "aten::full" else args
        return any(isinstance(value, float) for value in numbers)
    return not name.startswith(("aten::randint", "aten::randperm"))


def _as_places(index: Any) -> list[Any]:
    """A real mask as the whole numbers of its places; their count is a shape, which a mask on meta does not tell."""
    if isinstance(index, Tensor) and index.dtype == torch.bool and index.device != META:
        return list(index.nonzero().unbind(1))
    return [index]


def _shape_of(tensor: Tensor) -> Tensor:
    return tensor if tensor.device == META else torch.empty_strided(
        tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META
    )  # fmt: skip


class RealNumbers(TorchFunctionMode):
    """Inside ``torch.device("meta")``: tensors of given numbers keep them."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        return func(*args, **kwargs)


class Attention(TorchFunctionMode):
    """Takes the attention kernel that a device would take: shapes know of no device.

    Args:
        device: "cpu", where trainings take the plain product, or "cuda": the kernels that keep no map of attention.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.fused = device != "cpu"

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        return self._attend(*args, **kwargs)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        aten = torch.ops.aten
        if not self.fused:
            options = {"scale": scale, "enable_gqa": enable_gqa}
            plain: Tensor = aten._scaled_dot_product_attention_math(
                query, key, value, attn_mask, dropout_p, is_causal, **options
            )[0]
            return plain
        if enable_gqa and key.shape[-3] != query.shape[-3]:
            copies = query.shape[-3] // key.shape[-3]
            key, value = (part.repeat_interleave(copies, -3) for part in (key, value))
        if attn_mask is None and query.dtype == torch.bfloat16:
            flash: Tensor = aten._scaled_dot_product_flash_attention(
                query, key, value, dropout_p, is_causal, scale=scale
            )[0]
            return flash
        bias = None
        if attn_mask is not None:
            bias = (
                torch.zeros(attn_mask.shape, dtype=query.dtype, device=query.device).masked_fill(
                    attn_mask.to(query.device).logical_not(), float("-inf")
                )
                if attn_mask.dtype == torch.bool
                else attn_mask.to(query)
            )
            bias = bias.expand(*query.shape[:-1], key.shape[-2])
        needs = torch.is_grad_enabled() and any(part.requires_grad for part in (query, key, value))
        efficient: Tensor = aten._scaled_dot_product_efficient_attention(
            query, key, value, bias, needs, dropout_p, is_causal, scale=scale
        )[0]
        return efficient


class Autocast(TorchFunctionMode):
    """What ``torch.autocast`` to bfloat16 does, for the meta device, of which it knows nothing."""

    _LOWER = frozenset(
        {F.linear, F.conv1d, F.conv2d, F.conv_transpose2d, F.scaled_dot_product_attention, torch.matmul, torch.bmm,
         torch.baddbmm, torch.addmm, torch.mm, torch.einsum, torch.conv2d, Tensor.matmul, Tensor.__matmul__, Tensor.bmm}
    )  # fmt: skip
    _FULL = frozenset(
        {F.layer_norm, F.group_norm, F.softmax, torch.softmax, Tensor.softmax, F.log_softmax, torch.log_softmax,
         F.cross_entropy, F.mse_loss, F.nll_loss, F.logsigmoid, torch.exp, torch.pow, Tensor.pow}
    )  # fmt: skip

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        wanted = torch.bfloat16 if func in self._LOWER else torch.float32 if func in self._FULL else None
        if wanted is not None:
            own = lambda value: value.to(wanted) if value.is_floating_point() else value  # noqa: E731
            args, kwargs = tree_map_only(torch.Tensor, own, (args, kwargs))
        return func(*args, **kwargs)


class Saved:
    """Bytes that autograd keeps for backward, each storage once, by ``saved_tensors_hooks``.

    Args:
        kept: Tensors that are there anyway (parameters, buffers) and are not counted.
        copies: Storages (``storage_key``) of copies of parameters in another number format, not counted either; may
            grow meanwhile.
    """

    def __init__(self, kept: Iterable[Tensor], copies: Collection[int] = ()) -> None:
        self._kept = {storage_key(tensor) for tensor in kept}
        self._copies = copies
        self._sizes: dict[int, int] = {}
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    @property
    def bytes(self) -> int:
        return sum(self._sizes.values())

    def _pack(self, tensor: Tensor) -> Tensor:
        if (key := storage_key(tensor)) not in self._kept and key not in self._copies:
            self._sizes[key] = tensor.untyped_storage().nbytes()
        return tensor


class Watch(TorchDispatchMode):
    """Counts what a step does: operations by part and direction, and the most memory that is alive at once.

    Args:
        parts: Modules by name, whose operations are counted apart; an inner one takes those of an outer one.
        kept: Tensors that are there before (parameters, buffers) and are not counted as alive.

    Attributes:
        flops: Operations of a (part, "forward" or "backward"); "" is what lies in no part.
        calls: Every call, in order.
        live: Bytes that are alive.
        peak: The most of them.
        copies: Storages of casts of parameters, and their bytes.
    """

    def __init__(self, parts: Mapping[str, nn.Module], kept: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.flops: Counter[tuple[str, str]] = Counter()
        self.calls: list[Call] = []
        self.live = self.peak = 0
        self.copies: dict[int, int] = {}
        self._kept = {storage_key(tensor) for tensor in kept}
        self._held: dict[int, tuple[Any, int]] = {}
        self._stack: list[str] = []
        self._begins: list[tuple[int, str]] = []  # from which number of autograd's nodes on a part has them
        self._handles = [handle for name, module in parts.items() for handle in self._hook(name, module)]

    def __exit__(self, *error: Any) -> None:
        for handle in self._handles:
            handle.remove()
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        call = record(func, args, kwargs, out)
        self.calls.append(call)
        if call.cost.flops:
            self.flops[self._place()] += call.cost.flops
        for tensor in tensors_in(out):
            self._hold(tensor)
        if func._schema.name == _COPY and storage_key(args[0]) in self._kept:
            self.copies[storage_key(out)] = out.untyped_storage().nbytes()
        return out

    def _place(self) -> tuple[str, str]:
        node = torch._C._current_autograd_node()
        if node is None or self._stack:  # with a stack in backward: a forward that is computed again
            return self._stack[-1] if self._stack else "", "forward" if node is None else "backward"
        at = bisect_right(self._begins, node._sequence_nr(), key=lambda begin: begin[0])
        return self._begins[at - 1][1] if at else "", "backward"

    def _hook(self, name: str, module: nn.Module) -> Iterator[RemovableHandle]:
        def enter(*_: Any) -> None:
            self._stack.append(name)
            self._begin()

        def leave(*_: Any) -> None:
            self._stack.pop()
            self._begin()

        yield module.register_forward_pre_hook(enter)
        yield module.register_forward_hook(leave, always_call=True)

    def _begin(self) -> None:
        if torch._C._current_autograd_node() is None:
            self._begins.append((torch.autograd._get_sequence_nr(), self._stack[-1] if self._stack else ""))

    def _hold(self, tensor: Tensor) -> None:
        key = storage_key(tensor)
        if key in self._held or key in self._kept:
            return
        storage = tensor.untyped_storage()
        size = storage.nbytes()
        self._held[key] = (weakref.ref(storage, lambda _: self.release(key)), size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def release(self, key: int) -> None:
        """Counts a storage no more: it is gone, or counted elsewhere (gradients)."""
        if held := self._held.pop(key, None):
            self.live -= held[1]


def storage_key(tensor: Tensor) -> int:
    """What tells storages apart, also on the meta device."""
    return int(tensor.untyped_storage()._cdata)
