"""What XGBoost and our kernel are given to read has been held to its form: nothing of it leads outside."""

import random
import re

import numpy as np
import pytest
import xgboost as xgb

from online.models import booster_file, ubjson
from online.models.bundle import native_margins
from online.models.trees import Forest


@pytest.fixture(params=["classifier", "risk"])
def content(request, trained):
    booster = getattr(trained, request.param)
    return bytes(booster[:3].save_raw("ubj"))


def mutated(content, rng):
    at, much = rng.randrange(len(content)), rng.choice([1, 4, 8])
    kind = rng.choice(["flip", "cut", "insert", "delete", "zeros", "ones"])
    if kind == "flip":
        return content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]
    if kind == "cut":
        return content[:at]
    put = {"insert": rng.randbytes(much), "delete": b"", "zeros": bytes(much), "ones": b"\xff" * much}[kind]
    return content[:at] + put + content[at + (0 if kind == "insert" else much) :]


def test_a_mutated_booster_is_refused_or_read_by_xgboost_without_harm(content, trained):
    # Without our check, one in twelve kills this process. Most that are taken differ in a threshold or a weight.
    rng, read = random.Random(20_261_130), 0
    for _ in range(400):
        mutant = mutated(content, rng)
        try:
            saved = booster_file.read(mutant)
            booster = xgb.Booster({"nthread": 1})
            booster.load_model(bytearray(mutant))
            forest = Forest.from_saved(saved)
        except (ValueError, xgb.core.XGBoostError):
            continue
        read += 1
        assert forest.margins(trained.X[:40]).tobytes() == native_margins(booster, trained.X[:40]).tobytes()

    assert 20 < read < 200


def put(content, column, index, value):
    """Write another value into a column of the first tree."""
    begins = re.search(rf"{column}\[\$[lUd]#L".encode(), content).end() + 8
    new = np.array(value, {"l": ">i4", "d": ">f4", "U": "u1"}[chr(content[begins - 11])]).tobytes()
    at = begins + index * len(new)
    return content[:at] + new + content[at + len(new) :]


@pytest.mark.parametrize(
    ("column", "index", "value", "told"),
    [
        ("left_children", 0, 0, "comes before its parent|pruned"),  # a cycle
        ("left_children", 0, 1_000_000, "pruned|not there"),
        ("left_children", 1, -7, "not there|two parents|without a weight"),
        ("right_children", 0, 1_000_000, "pruned"),
        ("parents", 1, 2, "two parents"),
        ("parents", 0, 1, "two parents"),
        ("split_indices", 0, 24, "beyond the 24"),
        ("split_indices", 0, -1, "beyond the 24"),
        ("split_conditions", 0, np.nan, "no number"),
        ("default_left", 0, 2, "no number"),
        ("split_type", 0, 1, "categorical"),
    ],
)
def test_a_node_that_leads_outside_its_tree_is_refused(content, column, index, value, told):
    with pytest.raises(ValueError, match=f"tree 0 .*({told})"):
        booster_file.read(put(content, column, index, value))


def test_a_leaf_whose_weights_are_not_there_is_refused(trained):
    content = bytes(trained.classifier[:1].save_raw("ubj"))
    (tree,) = booster_file.read(content).trees
    leaf = int(np.flatnonzero(tree.left_children < 0)[0])

    for row in (tree.leaf_weights.size // 11, -1):
        with pytest.raises(ValueError, match="without a weight for each of 11 outputs"):
            booster_file.read(put(content, "right_children", leaf, row))


@pytest.mark.parametrize(
    ("found", "instead", "told"),
    [
        (b"[$d#L" + bytes(6), b"[$d#L" + b"\x7f" + bytes(5), "ends early"),
        (b"[$d#L" + bytes(6), b"[$d#L" + b"\xff" * 6, "not a size"),
        (b"[$l#L", b"[$N#L", "begins no value"),
        (b"version[#L", b"versiox[#L", "unknown field `versiox`"),
        (b"i\x03i\x02i\x00}", b"i\x02i\x01i\x00}", r"saved by XGBoost \(2, 1, 0\)"),
        (b"idi\x00", b"idi\x01", "not numbered from 0"),
        (b"num_featureSL" + bytes(7) + b"\x0224", b"num_featureSL" + bytes(7) + b"\x0209", "beyond the 24"),
    ],
)
def test_a_size_or_a_count_that_lies_is_refused(content, found, instead, told):
    with pytest.raises(ValueError, match=told):
        booster_file.read(content.replace(found, instead, 1))


def test_neither_depth_nor_the_number_of_values_is_without_bound():
    size = b"[#L" + (1).to_bytes(8, "big")
    with pytest.raises(ValueError, match="more than 16 deep"):
        ubjson.read(size * 100_000)
    many = ubjson.VALUES_MAX + 1
    with pytest.raises(ValueError, match=f"than {ubjson.VALUES_MAX} values"):
        ubjson.read(b"[#L" + many.to_bytes(8, "big") + b"i\x00" * many)


@pytest.mark.parametrize(("depth", "told"), [(64, []), (65, ["is deeper than 64: train shallower ones"])])
def test_a_tree_deeper_than_any_is_refused(trained, depth, told):
    # 0 - 2 - 4 - … with a leaf at each step: 1, 3, 5 …
    n = 2 * depth + 1
    tree = booster_file.read(bytes(trained.risk[:1].save_raw("ubj"))).trees[0]
    for name, of in booster_file._COLUMNS.items():
        setattr(tree, name, np.zeros(n, of))
    tree.base_weights, tree.tree_param.num_nodes = np.zeros(n, ">f4"), str(n)
    tree.left_children = np.where(np.arange(n) % 2 | (np.arange(n) == n - 1), -1, np.arange(n) + 1).astype(">i4")
    tree.right_children = np.where(tree.left_children < 0, -1, tree.left_children + 1).astype(">i4")
    tree.parents = (-1 + np.arange(n) - (np.arange(n) + 1) % 2).astype(">i4")
    tree.parents[0] = -1

    assert booster_file.depth(tree) == depth
    assert list(booster_file._faults(tree, 24, 1)) == told
