"""How a GPU cuts matrix products into tiles and waves: the work of its busiest processors.

Knows sizes and processor counts only: no bandwidth, no clock, no dtype.
"""

from dataclasses import dataclass

import numpy as np

from medusa_bench.specs.columns import FloatArray, Products

# Output tiles that vendor libraries offer, rows x columns.
TILES = (
    (256, 128), (128, 256), (128, 128), (256, 64), (64, 256), (128, 64), (64, 128), (64, 64),
    (32, 128), (32, 64), (16, 128), (16, 64),
)  # fmt: skip
_SPLITS = (1, 2, 4, 8)  # ways to share the summed dimension among processors (split-K)

# A tile of x rows and z columns loads operands in proportion to x + z for x z results, so small
# tiles run slower by 1 + EDGE (1/x + 1/z). WAVE is how much of an unfilled last wave is lost: 0
# would be perfect balance, 1 none. Both were fitted once on the reference products of three GPUs.
EDGE = 33.0
WAVE = 0.27
_LARGEST_TILE = 1 + EDGE * (1 / 256 + 1 / 128)


@dataclass(frozen=True, slots=True)
class Tiling:
    """The cheapest way to cut each product, columns of shape (num_products,).

    work_flops: FLOPs the device is busy for, padding and idle processors included; at least the
    product's own. partial_elements: partial sums that splits write and read again.
    """

    work_flops: FloatArray
    partial_elements: FloatArray


def cheapest_tiling(products: Products, num_sms: int, flops_per_element: FloatArray) -> Tiling:
    """Choose each product's tile and split by what the busiest processor must do.

    num_sms is 0 for a device whose tiles are not known (a CPU): then nothing is padded.
    flops_per_element: what the device computes while it moves one element to or from memory; it
    weighs the partial sums of a split against idle processors.
    """
    if num_sms == 0:
        return Tiling(products.flops, np.zeros(len(products)))
    best_cost = np.full(len(products), np.inf)
    best_work = np.zeros(len(products))
    best_partial = np.zeros(len(products))
    for rows, columns in TILES:
        tiles = products.batch * np.ceil(products.m / rows) * np.ceil(products.n / columns)
        slowdown = (1 + EDGE * (1 / rows + 1 / columns)) / _LARGEST_TILE
        for split in _SPLITS:
            even = tiles * split / num_sms
            waves = np.ceil(even) ** WAVE * even ** (1 - WAVE)
            work = waves * num_sms * (2 * rows * columns * slowdown / split) * products.k
            partial = (split > 1) * split * 2.0 * products.batch * products.m * products.n
            cost = work + partial * flops_per_element
            better = cost < best_cost
            best_cost = np.where(better, cost, best_cost)
            best_work = np.where(better, work, best_work)
            best_partial = np.where(better, partial, best_partial)
    return Tiling(np.maximum(best_work, products.flops), best_partial)


def features(products: Products, num_sms: int) -> list[FloatArray]:
    """Logarithms that tell where on the staircase of tiles and waves each product stands."""
    columns: list[FloatArray] = []
    num_sms = max(num_sms, 1)
    for tile_rows, tile_columns in TILES[:8]:
        tiles = (
            products.batch * np.ceil(products.m / tile_rows) * np.ceil(products.n / tile_columns)
        )
        padded = np.ceil(tiles / num_sms) * num_sms * tile_rows * tile_columns
        columns.append(np.log(padded / (products.batch * products.m * products.n)))
        columns.append(np.log(tiles / num_sms))
    columns += [np.log(np.ceil(products.m / rows) * rows / products.m) for rows in (128, 64)]
    columns.append((products.m % 8 == 0).astype(float))
    return columns
