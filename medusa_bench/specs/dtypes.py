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
