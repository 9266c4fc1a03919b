"""What a decoder is made of: its dimensions, and the parts that not every decoder has."""

from dataclasses import dataclass, field, replace

from medusa_bench.specs.schemes import Quantisation


@dataclass(frozen=True, slots=True)
class Experts:
    """Feed-forward experts in num_layers of a model's layers, of which each token takes some.

    width: of one expert's MLP. shared_width: of the MLP beside them that every token takes; 0
    where there is none. shared_is_gated: whether a gate of one output weighs it. input_width: of
    the projection that experts act on; 0 where they act on the hidden state itself.
    """

    num_experts: int
    experts_per_token: int
    width: int
    num_layers: int
    shared_width: int = 0
    shared_is_gated: bool = False
    input_width: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.experts_per_token <= self.num_experts:
            raise ValueError(f"{self.experts_per_token} of {self.num_experts} experts a token")


@dataclass(frozen=True, slots=True)
class Routing:
    """How tokens choose their experts, and on which GPUs those are.

    skew: exponent a of experts' popularity, rank^-a; 0 for even. locality: the share of a
    sequence's further candidates that choose the experts of its first; 0 where each chooses anew.
    spread: GPUs over which whole experts are spread; ranks: the same, of one GPU's part.
    """

    skew: float = 0.0
    locality: float = 0.0
    spread: int = 1
    ranks: int = 1


EVEN = Routing()


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2): one cached vector a token, shared by all heads.

    Decoding absorbs the up-projections of keys and values into the queries and the output, so the
    cache of kv_rank + rope_dim a token is never expanded. q_rank: of the query's low-rank
    projection; 0 where there is none. index_tokens: how many cached tokens an indexer of
    index_heads x index_dim chooses, that alone are attended to (DeepSeek-V3.2); 0: all are.
    """

    kv_rank: int
    rope_dim: int
    nope_dim: int
    value_dim: int
    q_rank: int = 0
    index_tokens: int = 0
    index_heads: int = 0
    index_dim: int = 0


@dataclass(frozen=True, slots=True)
class Recurrence:
    """A state of fixed size in place of a cache, in num_layers of a model's layers.

    Gated delta nets, Mamba, lightning attention and short convolutions differ in these counts
    alone. in_width: outputs of all projections of the layer's input; out_width: inputs of the
    projection back. conv_channels, conv_width: of the convolution over the last tokens.
    num_states states of key_dim x value_dim a sequence; all 0 where the convolution is all there
    is. inner_width: outputs of the projections of its inner values (Mamba-1); rank, rank_width: of
    projections by way of a low rank. Each 0 where there is none.
    """

    num_layers: int
    in_width: int
    out_width: int
    conv_channels: int = 0
    conv_width: int = 0
    num_states: int = 0
    key_dim: int = 0
    value_dim: int = 0
    inner_width: int = 0
    rank: int = 0
    rank_width: int = 0

    def split(self, num_gpus: int) -> "Recurrence":
        """One GPU's part: its states, and the widths in proportion."""
        each = {
            name: -(-getattr(self, name) // num_gpus)
            for name in (
                "in_width", "out_width", "conv_channels", "num_states", "inner_width", "rank_width",
            )
        }  # fmt: skip
        return replace(self, **each)


@dataclass(frozen=True, slots=True)
class Heads:
    """Key/value heads of a kind of layer, in num_layers of a model whose heads differ by layer.

    has_values: whether values have weights; where not, they are the keys.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int
    value_dim: int
    has_values: bool = True

    def split(self, num_gpus: int) -> "Heads":
        """One GPU's part; heads are repeated where there are fewer."""
        return replace(self, num_kv_heads=max(1, self.num_kv_heads // num_gpus))


@dataclass(frozen=True, slots=True)
class Window:
    """Attention to the last `tokens` cached tokens alone, in num_layers of a model's layers."""

    tokens: int
    num_layers: int


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Dimensions of a decoder, all counts.

    Its layers are one kind unless a part says in how many of them it stands: the operator table
    counts an operator in as many layers as the properties below say. `unmodelled` says in words
    what the model has and the operator table leaves out; it is shown wherever the shape is used and
    takes no part in comparing shapes. Raises ValueError for counts that do not fit each other.
    """

    name: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int = 32000
    num_medusa_heads: int = 5
    unmodelled: tuple[str, ...] = field(default=(), compare=False)
    experts: Experts | None = None
    latent: LatentAttention | None = None
    window: Window | None = None
    gated: bool = True  # whether the MLP has a gate beside its up projection
    quantised: Quantisation | None = None  # what of its weights and cache is not in 16 bits
    recurrence: Recurrence | None = None
    whole_heads: Heads | None = None  # of layers that attend to all, where heads differ by layer
    near_heads: Heads | None = None  # of layers that attend to a window
    attention_layers: int | None = None  # all that have no state, unless another number is given
    mlp_layers: int | None = None  # all that have no experts, unless another number is given
    routing: Routing | None = None  # of its experts; even where nothing is said
    gated_output: bool = False  # whether a projection as wide as the queries gates attention

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"{self.name}: {self.num_heads} heads do not divide into groups "
                f"of {self.num_kv_heads} key/value heads"
            )
        for part in (self.experts, self.window, self.recurrence):
            if part is not None and not 0 <= part.num_layers <= self.num_layers:
                raise ValueError(
                    f"{self.name}: {part.num_layers} of {self.num_layers} layers are of one kind"
                )

    def split(self, num_gpus: int) -> "ModelShape":
        """What one GPU of a tensor-parallel group computes: heads, widths and vocabulary divided.

        Key/value heads are repeated where there are fewer than GPUs. Experts are divided in width,
        but for the GPUs over which whole ones are spread. Raises ValueError where heads, widths or
        experts do not divide.
        """
        if num_gpus == 1:
            return self
        experts, routing = self.experts, self.routing or EVEN
        ranks = routing.spread if experts else 1
        if num_gpus % ranks or (experts and experts.num_experts % ranks):
            raise ValueError(f"{self.name}: experts do not spread over {ranks} of {num_gpus} GPUs")
        widths = [self.num_heads, self.intermediate_size]
        widths += [experts.width * ranks, experts.shared_width] if experts else []
        widths += [self.recurrence.num_states] if self.recurrence else []
        if any(width % num_gpus for width in widths):
            raise ValueError(f"{self.name}: heads or widths do not divide over {num_gpus} GPUs")
        heads = self.num_heads // num_gpus
        return replace(
            self,
            intermediate_size=self.intermediate_size // num_gpus,
            num_heads=heads,
            num_kv_heads=max(1, self.num_kv_heads // num_gpus),
            vocab_size=-(-self.vocab_size // num_gpus),
            experts=experts
            and replace(
                experts,
                width=experts.width * ranks // num_gpus,
                shared_width=experts.shared_width // num_gpus,
            ),
            recurrence=self.recurrence and self.recurrence.split(num_gpus),
            routing=self.routing and replace(self.routing, ranks=ranks),
            whole_heads=self.whole_heads and self.whole_heads.split(num_gpus),
            near_heads=self.near_heads and self.near_heads.split(num_gpus),
        )

    def of_depth(self, num_layers: int, name: str) -> "ModelShape":
        """So many layers of this model, of each kind in its share: of states rounded down, as one
        layer that predicts further tokens attends; of the others up."""

        def share(count: int) -> int:
            return -(-count * num_layers // self.num_layers)

        experts, window, states = self.experts, self.window, self.recurrence
        whole, near = self.whole_heads, self.near_heads
        num_near = near.num_layers * num_layers // self.num_layers if near else 0
        kept = states and states.num_layers * num_layers // self.num_layers
        return replace(
            self,
            name=name,
            num_layers=num_layers,
            experts=experts and replace(experts, num_layers=share(experts.num_layers)),
            window=window and replace(window, num_layers=share(window.num_layers)),
            recurrence=states and replace(states, num_layers=kept) if kept else None,
            whole_heads=whole and replace(whole, num_layers=num_layers - num_near),
            near_heads=near and replace(near, num_layers=num_near),
            attention_layers=self.attention_layers and share(self.attention_layers),
            mlp_layers=None if self.mlp_layers is None else share(self.mlp_layers),
        )

    def plain_layers(self, num_layers: int, name: str) -> "ModelShape":
        """Llama's layers of this hidden size, as drafters beside any model are made of them.

        Where the model has experts or latent attention, widths as the published drafters choose
        them: an MLP of 6 h, heads of 128 in groups of 8.
        """
        plain = replace(
            self,
            name=name,
            num_layers=num_layers,
            experts=None,
            latent=None,
            window=None,
            gated=True,
            quantised=None,
            recurrence=None,
            routing=None,
            whole_heads=None,
            near_heads=None,
            attention_layers=None,
            mlp_layers=None,
            gated_output=False,
        )
        if self.experts:
            plain = replace(plain, intermediate_size=6 * self.hidden_size)
        if self.latent:
            heads = max(1, self.hidden_size // 128)
            groups = 8 if heads % 8 == 0 else heads
            plain = replace(plain, num_heads=heads, num_kv_heads=groups, head_dim=128)
        return plain

    @property
    def notes(self) -> tuple[str, ...]:
        """What the table leaves out of this model, each with the model's name before it."""
        return tuple(f"{self.name}: {note}" for note in self.unmodelled)

    @property
    def num_expert_layers(self) -> int:
        """Layers with experts in place of the MLP."""
        return self.experts.num_layers if self.experts else 0

    @property
    def num_gated_expert_layers(self) -> int:
        """Those of them whose experts have a gate."""
        return self.num_expert_layers if self.gated else 0

    @property
    def num_shared_expert_layers(self) -> int:
        """Layers with an MLP of the shared width beside their experts."""
        return self.num_expert_layers if self.experts and self.experts.shared_width else 0

    @property
    def num_gated_shared_expert_layers(self) -> int:
        """Those of them where that MLP has a gate."""
        return self.num_shared_expert_layers if self.gated else 0

    @property
    def num_narrow_expert_layers(self) -> int:
        """Layers whose experts act on a projection of the hidden state."""
        return self.num_expert_layers if self.experts and self.experts.input_width else 0

    @property
    def num_mlp_layers(self) -> int:
        """Layers with an MLP of the intermediate size."""
        if self.mlp_layers is not None:
            return self.mlp_layers
        return self.num_layers - self.num_expert_layers

    @property
    def num_gated_mlp_layers(self) -> int:
        """Those of them whose MLP has a gate."""
        return self.num_mlp_layers if self.gated else 0

    @property
    def num_attention_layers(self) -> int:
        """Layers that attend to cached tokens."""
        if self.attention_layers is not None:
            return self.attention_layers
        return self.num_layers - self.num_recurrent_layers

    @property
    def num_grouped_layers(self) -> int:
        """Those of them whose query heads share cached keys and values by groups, all alike."""
        return 0 if self.latent or self.whole_heads else self.num_attention_layers

    @property
    def num_gated_output_layers(self) -> int:
        """Those of them whose output is gated."""
        return self.num_grouped_layers if self.gated_output else 0

    @property
    def num_windowed_layers(self) -> int:
        """Those of them that attend to a window alone."""
        alike = not self.latent and not self.whole_heads
        return self.window.num_layers if self.window and alike else 0

    @property
    def num_unwindowed_layers(self) -> int:
        """Those of them that attend to all cached tokens."""
        return self.num_grouped_layers - self.num_windowed_layers

    @property
    def num_whole_layers(self) -> int:
        """Layers that attend to all cached tokens with heads of their own."""
        return self.whole_heads.num_layers if self.whole_heads else 0

    @property
    def num_whole_value_layers(self) -> int:
        """Those of them whose values have weights."""
        return self.num_whole_layers if self.whole_heads and self.whole_heads.has_values else 0

    @property
    def num_near_layers(self) -> int:
        """Layers that attend to a window with heads of their own."""
        return self.near_heads.num_layers if self.near_heads else 0

    @property
    def num_near_value_layers(self) -> int:
        """Those of them whose values have weights."""
        return self.num_near_layers if self.near_heads and self.near_heads.has_values else 0

    @property
    def num_latent_layers(self) -> int:
        """Layers with latent attention."""
        return self.num_attention_layers if self.latent else 0

    @property
    def num_low_rank_layers(self) -> int:
        """Those of them whose queries are projected by way of a low rank."""
        return self.num_latent_layers if self.latent and self.latent.q_rank else 0

    @property
    def num_indexed_layers(self) -> int:
        """Layers with latent attention to the tokens that an indexer chooses."""
        return self.num_latent_layers if self.latent and self.latent.index_tokens else 0

    @property
    def num_whole_latent_layers(self) -> int:
        """Layers with latent attention to all cached tokens."""
        return self.num_latent_layers - self.num_indexed_layers

    @property
    def num_recurrent_layers(self) -> int:
        """Layers that keep a state of fixed size, or the last tokens of a convolution."""
        return self.recurrence.num_layers if self.recurrence else 0

    @property
    def num_convolved_layers(self) -> int:
        """Those of them with a convolution."""
        return self.num_recurrent_layers if self.recurrence and self.recurrence.conv_width else 0

    @property
    def num_state_layers(self) -> int:
        """Those of them with a state."""
        return self.num_recurrent_layers if self.recurrence and self.recurrence.num_states else 0

    @property
    def num_inner_layers(self) -> int:
        """Those of them that project their inner values."""
        return self.num_recurrent_layers if self.recurrence and self.recurrence.inner_width else 0

    @property
    def num_ranked_layers(self) -> int:
        """Those of them with projections by way of a low rank."""
        return self.num_recurrent_layers if self.recurrence and self.recurrence.rank else 0
