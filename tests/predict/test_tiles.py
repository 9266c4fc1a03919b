"""How products are cut into tiles and waves."""

import numpy as np
import pytest

from medusa_bench.predict.tiles import cheapest_tiling, features
from medusa_bench.specs.columns import Products
from medusa_bench.specs.products import Product

A100_SMS = 108
NEVER_SPLIT = np.array(1e12)


def work(*products: Product, num_sms: int = A100_SMS) -> np.ndarray:
    return cheapest_tiling(Products.of(list(products)), num_sms, NEVER_SPLIT).work_flops


def test_columns_have_the_operator_tables_flops_and_elements() -> None:
    products = [Product(2, 3, 5, 7), Product(1, 64, 4096, 11008)]
    columns = Products.of(products)
    assert columns.flops.tolist() == [p.flops for p in products]
    assert columns.num_elements.tolist() == [p.num_elements for p in products]


def test_a_product_that_fills_every_wave_wastes_nothing() -> None:
    full = Product(1, 256 * A100_SMS, 128, 4096)
    assert work(full)[0] == pytest.approx(full.flops)


def test_work_is_never_less_than_the_products_own_flops() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 5000, (200, 4))
    products = Products.of(
        [Product(int(b % 64 + 1), int(m), int(n), int(k)) for b, m, n, k in sizes]
    )
    assert (cheapest_tiling(products, A100_SMS, NEVER_SPLIT).work_flops >= products.flops).all()


def test_one_row_more_than_a_tile_costs_a_step() -> None:
    at, over = work(Product(1, 128, 16384, 4096), Product(1, 129, 16384, 4096))
    assert over > 1.05 * at * 129 / 128


def test_a_small_output_is_split_where_partial_sums_are_cheap() -> None:
    small = Products.of([Product(1, 64, 256, 65536)])
    free = cheapest_tiling(small, A100_SMS, np.array(0.0))
    dear = cheapest_tiling(small, A100_SMS, NEVER_SPLIT)
    assert free.partial_elements[0] > 0
    assert free.work_flops[0] < dear.work_flops[0]
    assert dear.partial_elements[0] == 0


def test_a_device_without_known_tiles_pads_nothing() -> None:
    odd = Product(1, 1, 17, 33)
    assert work(odd, num_sms=0)[0] == odd.flops


def test_features_are_finite_for_the_smallest_and_largest_products() -> None:
    products = Products.of([Product(1, 1, 1, 1), Product(4096, 32768, 65536, 65536)])
    assert np.isfinite(np.stack(features(products, A100_SMS))).all()
