"""Numbers of a config.json: whole and within what any model has, or a sentence that says which."""

from medusa_bench.base.documents import JsonObject
from medusa_bench.base.errors import InvalidFileError, UnsupportedModelError

MAX_DIMENSION = 1 << 24


def dimension(config: JsonObject, key: str, where: str, default: int | None = None) -> int:
    """A number of 1 to MAX_DIMENSION. Raises InvalidFileError; UnsupportedModelError for a list."""
    value = config.get(key)
    if value is None:
        value = default
    if value is None:
        raise InvalidFileError(
            f"{where} has no {key}.",
            hint="is it the config.json of a causal LM? A key left to its class's default must be "
            "written out.",
        )
    if isinstance(value, list):
        raise UnsupportedModelError(
            f"{where}: {key} differs by layer, which the operator table does not model."
        )
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_DIMENSION:
        raise InvalidFileError(
            f"{where}: {key} is {str(value)[:40]!r}; it must be a whole number of 1 to 16777216."
        )
    return value


def count(config: JsonObject, key: str, where: str, default: int = 0) -> int:
    """A whole number that may be 0, or -1 for "to the end"."""
    value = config.get(key)
    if value is None:
        return default
    if type(value) is not int or not -1 <= value <= MAX_DIMENSION:
        raise InvalidFileError(f"{where}: {key} is {str(value)[:40]!r}; it must be a count.")
    return value


def alike(config: JsonObject, key: str, where: str) -> JsonObject:
    """The config with a list of one number for each layer as that number, where all are equal."""
    value = config.get(key)
    if isinstance(value, list) and value and all(each == value[0] for each in value):
        return {**config, key: value[0]}
    return config
