"""What a file, a grid or a tree may come to. Bounds on memory and time, checked before it is built.

Generous: nothing that the commands make comes near. Each is named in the message that refuses.
"""

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

# Bytes of a file, by what it is.
PROFILE_BYTES = 16 * KIB
CONFIG_BYTES = 64 * MIB  # configs that list every layer or quantised tensor come to several MiB
TREE_BYTES = 8 * MIB
CALIBRATION_BYTES = 16 * MIB
PRINTED_BYTES = 4 * MIB
RUN_BYTES = 64 * MIB
COMPARISON_BYTES = 64 * MIB
METRICS_BYTES = 64 * MIB
PROMPTS_BYTES = 64 * MIB
TABLE_BYTES = 256 * MIB
POINTS_BYTES = 8 * GIB

# Things that a short text can ask for.
POINTS = 20_000_000  # logical points of a grid or a results folder
LIST_NUMBERS = 100_000  # numbers that a list such as 1-4096:+1 comes to
CANDIDATES = 65_536  # nodes of a tree, drafted tokens, places of an acceptance
LAYERS = 2_000  # of a model that is loaded; the deepest that are published have some 200
PATHS = 65_536  # paths of a table of how often guesses are right together
TABLE_CELLS = 50_000_000  # cells of a table of latencies, after decompression


def in_words(num_bytes: int) -> str:
    """A limit as people write it: 16 KiB, 8 GiB."""
    for size, unit in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if num_bytes >= size:
            return f"{num_bytes / size:g} {unit}"
    return f"{num_bytes} bytes"
