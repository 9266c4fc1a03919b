"""A key/value cache that takes a tree of tokens, keeps one path of it and forgets the rest.

One preallocated slab, one length per sequence. A pass writes its nodes after each sequence's
length; `commit` moves the accepted ones together. Rolling back costs nothing: lengths do not move.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from medusa_bench.base.errors import UnsupportedModelError

# Attention kernels take a mask in rows of 8; another length is padded in every layer.
_VISIBLE_STEP = 8


class SlabCache(Cache):
    """Keys and values of batch_size sequences of at most `capacity` tokens.

    dynamic: a pass sees the slots up to the longest sequence, under a mask up to the next multiple
    of 8. static: it always sees all slots,
    so that shapes stay the same from step to step and a compiled step can be replayed.
    """

    def __init__(self, num_layers: int, batch_size: int, capacity: int, *, static: bool) -> None:
        self.rows = [SlabLayer(self, layer) for layer in range(num_layers)]
        super().__init__(layers=list(self.rows))
        self.num_slots = batch_size
        self.capacity = capacity
        self.static = static
        self.lengths = [0] * batch_size
        self.slabs: list[Tensor] = []  # each (..., b, n_kv, capacity, d): keys, values by layer
        self.start: int | None = 0  # where the pass writes; None where sequences differ
        self.visible = capacity
        self.positions: Tensor | None = None  # (b, q): where each node is written

    def allocate(self, like: Tensor) -> None:
        """Make room for every layer, shaped as one layer's keys (b, n_kv, q, d)."""
        _, num_kv_heads, _, head_dim = like.shape
        shape = (self.num_slots, num_kv_heads, self.capacity, head_dim)
        if self.static:
            # A tensor each, at an address that stays: inputs that share storage, or move, defeat
            # CUDA graphs.
            self.slabs = [like.new_zeros(shape) for _ in range(2 * len(self.rows))]
            for slab in self.slabs:
                torch._dynamo.mark_static_address(slab)
        else:
            self.slabs = [like.new_zeros((len(self.rows), 2, *shape))]
        self._share()

    def _share(self) -> None:
        flat = self.slabs if self.static else [kv for layer in self.slabs[0] for kv in layer]
        for layer, keys, values in zip(self.rows, flat[::2], flat[1::2], strict=True):
            layer.keys, layer.values = keys, values
            layer.is_initialized = True

    def plan_prefill(self, query_len: int) -> None:
        """The next pass writes the first query_len slots of every sequence and sees these."""
        self.start, self.visible = 0, query_len

    def plan_step(self, query_len: int, offset: int) -> list[int]:
        """The next pass writes query_len slots from each length + offset on: these starts."""
        starts = [length + offset for length in self.lengths]
        if max(starts) + query_len > self.capacity:
            raise ValueError(f"{max(starts)} + {query_len} tokens do not fit in {self.capacity}")
        uniform = min(starts) == max(starts) and not self.static
        self.start = starts[0] if uniform else None
        self.visible = self.capacity if self.static else max(starts) + query_len
        if self.start is None or query_len > 1:  # there is a mask, which hides what is beyond
            aligned = -(-self.visible // _VISIBLE_STEP) * _VISIBLE_STEP
            self.visible = min(aligned, self.capacity)
        return starts

    def commit(self, routes: Tensor, accepted: list[int]) -> None:
        """Keep the root and accepted[i] nodes of routes[i] (b, depth + 1), in this order."""
        deepest = max(accepted)
        if deepest:
            starts = torch.tensor(self.lengths, device=routes.device)[:, None]
            to = starts + torch.arange(1, deepest + 1, device=routes.device)
            # Beyond its accepted nodes a sequence copies what will be overwritten.
            source = starts + routes[:, 1 : deepest + 1]
            if not torch.equal(to, source):
                for slab in self.slabs:
                    if self.num_slots == 1:
                        slab[..., to[0], :] = slab[..., source[0], :]
                    else:
                        rows = torch.arange(self.num_slots, device=routes.device)[:, None]
                        moved = slab.movedim(-2, -3)  # (..., b, capacity, n_kv, d)
                        moved[..., rows, to, :, :] = moved[..., rows, source, :, :]
        self.lengths = [
            length + 1 + count for length, count in zip(self.lengths, accepted, strict=True)
        ]

    def keep(self, rows: list[int]) -> None:
        """Drop the sequences that are not in rows. Only a dynamic cache changes its batch."""
        assert not self.static
        self.slabs = [slab[..., rows, :, :, :] for slab in self.slabs]
        self.lengths = [self.lengths[row] for row in rows]
        self.num_slots = len(rows)
        self._share()


class SlabLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]  # in transformers' base
    """One layer's share of the slab: keys and values (b, n_kv, capacity, d)."""

    is_sliding = False
    is_compileable = True

    def __init__(self, cache: SlabCache, index: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cache, self.index = cache, index

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.cache.allocate(key_states)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write (b, n_kv, q, d) where the pass writes; all keys and values it may see."""
        if not self.is_initialized:
            self.cache.allocate(key_states)
        keys, values = self.keys, self.values
        assert keys is not None and values is not None
        if key_states.shape[1] != keys.shape[1] or key_states.shape[3] != keys.shape[3]:
            raise UnsupportedModelError(
                f"Layer {self.index} has {key_states.shape[1]} key/value heads of "
                f"{key_states.shape[3]}, the first has {keys.shape[1]} of {keys.shape[3]}."
            )
        start, visible, positions = self.cache.start, self.cache.visible, self.cache.positions
        if start is not None:
            end = start + key_states.shape[2]
            keys[:, :, start:end] = key_states
            values[:, :, start:end] = value_states
        else:
            assert positions is not None
            slots = positions[:, None, :, None].expand(-1, keys.shape[1], -1, keys.shape[3])
            keys.scatter_(2, slots, key_states)
            values.scatter_(2, slots, value_states)
        if visible < keys.shape[2]:
            keys, values = keys[:, :, :visible], values[:, :, :visible]
        return keys, values

    def get_seq_length(self) -> int:
        return self.cache.start or 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.visible, 0

    def get_max_length(self) -> int:
        return self.cache.capacity
