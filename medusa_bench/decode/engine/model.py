"""A causal LM of transformers as the engine uses it: prefill, one pass over a tree, the LM head.

The model is not patched. What a pass needs of it (a 4-D mask and positions that are honoured, no
sliding window, logits that are the LM head of the last hidden state) is checked, not assumed.
"""

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from medusa_bench.base.errors import UnsupportedModelError
from medusa_bench.decode.engine.cache import SlabCache
from medusa_bench.decode.engine.layout import TreeLayout

_MAX_GRAPHS = 128

Pass = Callable[[Tensor, Tensor, Tensor | None, SlabCache, int], tuple[Tensor, Tensor]]


class DecoderModel:
    """A model, its LM head, and how a pass is run: eager, or compiled with static shapes.

    `num_layers` takes only the first layers, sharing their weights, then the final norm and the
    LM head: the draft of self-speculative decoding. Raises UnsupportedModelError.
    """

    def __init__(
        self, model: Any, *, compiled: bool = False, num_layers: int | None = None
    ) -> None:
        # On Hopper cuDNN comes first, and plans anew for each length: every step has another.
        torch.backends.cuda.enable_cudnn_sdp(False)
        self.model = model.eval()
        self.config: Any = self.model.config.get_text_config()
        refuse_sliding_windows(self.config)
        self.backbone: Any = self.model.get_decoder()
        self.lm_head: Any = self.model.get_output_embeddings()
        if self.lm_head is None:
            raise UnsupportedModelError(f"{self._name} has no LM head: it is no causal LM.")
        parameters = inspect.signature(inspect.unwrap(type(self.backbone).forward)).parameters
        # Called past_key_values until transformers 5.23.
        self._cache_argument = "cache" if "cache" in parameters else "past_key_values"
        if self._cache_argument not in parameters:
            raise UnsupportedModelError(f"{self._name} takes no key/value cache.")
        self.num_layers: int = self.config.num_hidden_layers
        self.vocab_size: int = self.config.vocab_size
        self.context_limit: int = self.config.max_position_embeddings
        self.device: torch.device = next(self.model.parameters()).device
        self.dtype: torch.dtype = self.backbone.get_input_embeddings().weight.dtype
        self.compiled = compiled
        self._lowest = torch.finfo(self.dtype).min
        if num_layers is not None:
            self._take_layers(num_layers)
        self._check_tree_pass()
        self._run: Pass = self._pass
        if compiled:
            # One graph for each number of candidates and batch size.
            dynamo: Any = torch._dynamo.config
            dynamo.recompile_limit = max(dynamo.recompile_limit, _MAX_GRAPHS)
            mode = "reduce-overhead" if self.device.type == "cuda" else "default"
            self._run = torch.compile(self._pass, dynamic=False, mode=mode)

    @property
    def _name(self) -> str:
        return type(self.model).__name__

    @property
    def attention(self) -> str:
        """The attention back end, as transformers names it."""
        return str(self.config._attn_implementation)

    def _take_layers(self, num_layers: int) -> None:
        layers = getattr(self.backbone, "layers", None)
        if not isinstance(layers, nn.ModuleList):
            raise UnsupportedModelError(f"{self._name} has no list of layers to take some of.")
        if not 1 <= num_layers < len(layers):
            raise UnsupportedModelError(
                f"A draft of the first {num_layers} of {len(layers)} layers is no draft."
            )
        self.backbone = copy.copy(self.backbone)
        self.backbone._modules = {**self.backbone._modules, "layers": layers[:num_layers]}
        self.backbone.config = _with_layers(self.backbone.config, num_layers)
        self.num_layers = num_layers

    @contextmanager
    def eagerly(self) -> Iterator[None]:
        """Passes run eagerly meanwhile, a compiled model's too."""
        run, self._run = self._run, self._pass
        try:
            yield
        finally:
            self._run = run

    def new_cache(self, batch_size: int, capacity: int) -> SlabCache:
        """Room for batch_size texts of `capacity` tokens; compiled, for the next power of two, so
        that texts of different lengths share a graph."""
        if self.compiled:
            capacity = 1 << (capacity - 1).bit_length()
        return SlabCache(self.num_layers, batch_size, capacity, static=self.compiled)

    @torch.inference_mode()
    def prefill(self, cache: SlabCache, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read the prompts into an empty cache; the hidden state of each last token, (b, h).

        Prompts are padded to the right: under a causal mask no token sees a pad after it, and the
        pads' keys are overwritten later.
        """
        lengths = [len(prompt) for prompt in prompts]
        padded = torch.zeros(len(prompts), max(lengths), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            padded[row, : len(prompt)] = torch.tensor(prompt)
        cache.plan_prefill(max(lengths))
        tokens = padded.to(self.device)
        positions = torch.arange(max(lengths), device=self.device)[None]
        hidden = self._backbone(tokens, positions, None, cache)
        cache.lengths = lengths
        last = torch.tensor(lengths, device=self.device) - 1
        rows = torch.arange(len(prompts), device=self.device)
        return hidden[rows, last]

    @torch.inference_mode()
    def step(
        self,
        cache: SlabCache,
        tokens: Tensor,
        layout: TreeLayout,
        *,
        offset: int = 0,
        first_row: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """One pass over a tree of tokens (b, q) standing after each length + offset.

        Gives hidden states (b, q, h), and logits (b, q - first_row, vocab) from row first_row on.
        The cache's lengths stay: `commit` moves them.
        """
        query_len = layout.num_nodes
        starts = cache.plan_step(query_len, offset)
        start = torch.tensor(starts, device=self.device)[:, None]
        positions = (start + layout.depths).clamp_(max=self.context_limit - 1)
        if cache.start is None:
            cache.positions = start + torch.arange(query_len, device=self.device)
        mask = None
        if cache.start is None or query_len > 1:
            mask = self._mask(start, layout, cache)
        if self.compiled and self.device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return self._run(tokens, positions, mask, cache, first_row)

    def _mask(self, start: Tensor, layout: TreeLayout, cache: SlabCache) -> Tensor:
        """(b or 1, 1, q, visible): 0 on the prefix and a node's ancestors, lowest elsewhere."""
        query_len = layout.num_nodes
        if cache.start is not None:
            start = start[:1]
        slots = torch.arange(cache.visible, device=self.device)
        seen = (slots < start)[:, None].repeat(1, query_len, 1)
        own = (start + torch.arange(query_len, device=self.device))[:, None]
        shape = (len(start), query_len, query_len)
        seen.scatter_(2, own.expand(shape), layout.ancestors.expand(shape))
        mask = torch.zeros(seen.shape, dtype=self.dtype, device=self.device)
        return mask.masked_fill_(~seen, self._lowest)[:, None]

    def _pass(
        self,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        cache: SlabCache,
        first_row: int,
    ) -> tuple[Tensor, Tensor]:
        hidden = self._backbone(tokens, positions, mask, cache)
        return hidden, self.lm_head(hidden[:, first_row:])

    def _backbone(
        self, tokens: Tensor, positions: Tensor, mask: Tensor | None, cache: SlabCache
    ) -> Tensor:
        hidden: Tensor = self.backbone(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=mask,
            use_cache=True,
            **{self._cache_argument: cache},
        ).last_hidden_state
        return hidden

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """The LM head: (..., hidden_size) to (..., vocab)."""
        logits: Tensor = self.lm_head(hidden)
        return logits

    @torch.inference_mode()
    def _check_tree_pass(self) -> None:
        """Refuse a model whose logits are more than its LM head, or that is blind to a tree.

        Two branches verified at once must give what each gives alone.
        """
        tokens = [token % self.vocab_size for token in (1, 2, 3, 4)]
        layout = TreeLayout([(0,), (1,), (1, 0)]).to(self.device)
        cache = SlabCache(self.num_layers, 1, 8, static=False)
        self.prefill(cache, [tokens[:1]])
        tree = torch.tensor([[tokens[1], tokens[2], tokens[3], tokens[2]]], device=self.device)
        self._run = self._pass
        _, logits = self.step(cache, tree, layout)
        for node, text in ((1, (0, 1, 2)), (3, (0, 1, 3, 2))):
            ids = torch.tensor([[tokens[index] for index in text]], device=self.device)
            if self.num_layers < self.config.num_hidden_layers:
                alone = SlabCache(self.num_layers, 1, 8, static=False)
                expected = self.logits(self.prefill(alone, ids.tolist()))[0]
            else:
                expected = self.model(input_ids=ids, use_cache=False).logits[0, -1]
            error = (logits[0, node] - expected).abs().max() / expected.abs().max().clamp(min=1e-6)
            if not error < (1e-3 if self.dtype == torch.float32 else 0.1):
                raise UnsupportedModelError(
                    f"{self._name} gives other logits for a tree of tokens than for each of its "
                    f"branches (off by {float(error):.1%}).",
                    hint="it scales its logits, or its attention leaves the given mask or "
                    "positions aside; Llama, Mistral and Qwen do not.",
                )


def refuse_sliding_windows(config: Any) -> None:
    """Raise UnsupportedModelError where a layer forgets: a rolled back step would not come back."""
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        window = getattr(config, "sliding_window", None)
        sliding = window is not None and getattr(config, "use_sliding_window", True)
        kinds = ["sliding_attention"] if sliding else []
    others = sorted(set(kinds) - {"full_attention"})
    if others:
        raise UnsupportedModelError(
            f"The model has layers of type {', '.join(others)[:80]} (window "
            f"{getattr(config, 'sliding_window', None)}); a tree can be verified and rolled back "
            "under full attention only.",
            hint="texts shorter than the window are the same without it: set sliding_window to "
            "null in its config.json and max_position_embeddings to the window.",
        )


def _with_layers(config: Any, num_layers: int) -> Any:
    values = config.to_dict()
    values["num_hidden_layers"] = num_layers
    if values.get("layer_types"):
        values["layer_types"] = values["layer_types"][:num_layers]
    shortened = type(config)(**values)
    shortened._attn_implementation = config._attn_implementation
    return shortened
