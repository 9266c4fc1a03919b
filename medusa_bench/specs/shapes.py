"""What a decoder is made of: its dimensions, and the parts that not every decoder has."""

from dataclasses import dataclass, field, replace

from medusa_bench.specs.schemes import Quantisation


@dataclass(frozen=True, slots=True)
class Experts:
    """Feed-forward experts in num_layers of a model's layers, of which each token takes some.

    width: of one expert's MLP. shared_width: of the MLP beside them that every token takes; 0
    where there is none. shared_is_gated: whether a gate of one output weighs it.
    """

    num_experts: int
    experts_per_token: int
    width: int
    num_layers: int
    shared_width: int = 0
    shared_is_gated: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.experts_per_token <= self.num_experts:
            raise ValueError(f"{self.experts_per_token} of {self.num_experts} experts a token")


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2): one cached vector a token, shared by all heads.

    Decoding absorbs the up-projections of keys and values into the queries and the output, so the
    cache of kv_rank + rope_dim a token is never expanded. q_rank: of the query's low-rank
    projection; 0 where there is none.
    """

    kv_rank: int
    rope_dim: int
    nope_dim: int
    value_dim: int
    q_rank: int = 0


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

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"{self.name}: {self.num_heads} heads do not divide into groups "
                f"of {self.num_kv_heads} key/value heads"
            )
        for part in (self.experts, self.window):
            if part is not None and not 0 <= part.num_layers <= self.num_layers:
                raise ValueError(
                    f"{self.name}: {part.num_layers} of {self.num_layers} layers are of one kind"
                )

    def split(self, num_gpus: int) -> "ModelShape":
        """What one GPU of a tensor-parallel group computes: heads, widths and vocabulary divided.

        Key/value heads are repeated where there are fewer than GPUs. Raises ValueError where heads
        or widths do not divide.
        """
        if num_gpus == 1:
            return self
        experts = self.experts
        widths = [self.num_heads, self.intermediate_size]
        widths += [experts.width, experts.shared_width] if experts else []
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
                width=experts.width // num_gpus,
                shared_width=experts.shared_width // num_gpus,
            ),
        )

    def of_depth(self, num_layers: int, name: str) -> "ModelShape":
        """So many layers of this model, of each kind in its share, rounded up."""

        def share(part: Experts | Window) -> int:
            return -(-part.num_layers * num_layers // self.num_layers)

        return replace(
            self,
            name=name,
            num_layers=num_layers,
            experts=self.experts and replace(self.experts, num_layers=share(self.experts)),
            window=self.window and replace(self.window, num_layers=share(self.window)),
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
    def num_shared_expert_layers(self) -> int:
        """Layers with an MLP of the shared width beside their experts."""
        return self.num_expert_layers if self.experts and self.experts.shared_width else 0

    @property
    def num_mlp_layers(self) -> int:
        """Layers with an MLP of the intermediate size."""
        return self.num_layers - self.num_expert_layers

    @property
    def num_gated_mlp_layers(self) -> int:
        """Those of them whose MLP has a gate."""
        return self.num_mlp_layers if self.gated else 0

    @property
    def num_grouped_layers(self) -> int:
        """Layers whose query heads share cached keys and values by groups."""
        return 0 if self.latent else self.num_layers

    @property
    def num_windowed_layers(self) -> int:
        """Those of them that attend to a window alone."""
        return self.window.num_layers if self.window and not self.latent else 0

    @property
    def num_unwindowed_layers(self) -> int:
        """Those of them that attend to all cached tokens."""
        return self.num_grouped_layers - self.num_windowed_layers

    @property
    def num_latent_layers(self) -> int:
        """Layers with latent attention."""
        return self.num_layers if self.latent else 0

    @property
    def num_low_rank_layers(self) -> int:
        """Those of them whose queries are projected by way of a low rank."""
        return self.num_layers if self.latent and self.latent.q_rank else 0
