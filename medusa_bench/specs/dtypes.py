"""Number formats by name, and the bytes an element takes."""

from enum import StrEnum


class Dtype(StrEnum):
    """A number format of the operands. `tf32` is float32 operands on TF32 matrix units."""

    FLOAT32 = "float32"
    TF32 = "tf32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT8 = "float8"

    @property
    def bytes_per_element(self) -> int:
        match self:
            case Dtype.FLOAT32 | Dtype.TF32:
                return 4
            case Dtype.FLOAT16 | Dtype.BFLOAT16:
                return 2
            case Dtype.FLOAT8:
                return 1

    @classmethod
    def named(cls, text: str) -> "Dtype":
        """The dtype of a name, also of one that people and libraries use. Raises ValueError."""
        lower = text.strip().lower().removeprefix("torch.")
        return cls(ALIASES.get(lower, lower))


ALIASES = {
    "fp32": "float32", "f32": "float32", "float": "float32",
    "fp16": "float16", "f16": "float16", "half": "float16", "float16_t": "float16",
    "bf16": "bfloat16",
    "fp8": "float8", "f8": "float8", "e4m3": "float8", "fe4m3": "float8",
    "fp8_e4m3": "float8", "float8_e4m3fn": "float8",
}  # fmt: skip
