"""The scoring kernel: one compiled walk over XGBoost's trees that costs the same a row at one row as at thousands.

XGBoost's own predictor takes 326 µs for a single row and 3 µs a row at 4,096; live batches are small. The walk gives
XGBoost's margins bit for bit: float32, base score first, trees in order, `x < threshold` to the left, missing to the
default side. `online.bundle` holds it to that at every load.
"""

import json
from typing import Any, NamedTuple

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from streams.compiled import kernel

_NODE = np.dtype(
    [
        ("threshold", np.float32),  # NaN in a leaf: no comparison with it holds, so a walk that arrived stays
        ("left", np.uint32),  # the right child is the next node; a leaf points to itself
        ("leaf", np.uint32),  # row of the leaf in `leaves`
        ("feature", np.uint16),
        ("missing_right", np.uint16),  # 1 where a missing value goes right
    ]
)


class Forest(NamedTuple):
    """The trees of one booster, flat: node `i` of tree `t` is `nodes[roots[t] + i]`; k outputs."""

    nodes: NDArray[np.void]  # (n_nodes,) of _NODE
    roots: NDArray[np.uint32]  # (n_trees,)
    depth: int  # of the deepest tree
    leaves: NDArray[np.float32]  # (n_leaves, k)
    base: NDArray[np.float32]  # (k,) base score as a margin
    n_features: int

    @classmethod
    def from_booster(cls, booster: xgb.Booster) -> "Forest":
        """Flatten a `gbtree` booster of XGBoost 3.2 with one output or vector leaves; `ValueError` for any other."""
        document = json.loads(bytes(booster.save_raw("json")))
        model = document["learner"]["gradient_booster"].get("model")
        if document["learner"]["gradient_booster"]["name"] != "gbtree" or not model["trees"]:
            raise ValueError("the booster is no gbtree with at least one tree: train it with booster='gbtree'")
        base = _base_margin(document)
        nodes: list[NDArray[np.void]] = []
        leaves: list[NDArray[np.float32]] = []
        roots = [0]
        for tree in model["trees"]:
            of_tree = _flatten(tree, base.size, first_node=roots[-1], first_leaf=sum(map(len, leaves)))
            nodes.append(of_tree[0])
            leaves.append(of_tree[1])
            roots.append(roots[-1] + nodes[-1].size)
        return cls(
            nodes=np.concatenate(nodes),
            roots=np.array(roots[:-1], np.uint32),
            depth=max(map(_depth, model["trees"])),
            leaves=np.concatenate(leaves),
            base=base,
            n_features=booster.num_features(),
        )

    def margins(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the raw margins, shape (n, k), of the rows of `X`, shape (n, n_features), NaN where missing."""
        if X.ndim != 2 or X.shape[1] != self.n_features or X.dtype != np.float32:
            raise ValueError(f"X is {X.dtype} of shape {X.shape}, the trees read float32 of (n, {self.n_features})")
        out = np.empty((X.shape[0], self.base.size), np.float32)
        _walk(self.nodes, self.roots, self.depth, self.leaves, self.base, X, out)
        return out


def _base_margin(document: dict[str, Any]) -> NDArray[np.float32]:
    # The file keeps a probability where the objective has one. Which bits its margin has is for XGBoost to say: we ask
    # the same model with its first tree only, all leaves 0. (Without any tree it takes the model for untrained.)
    learner = document["learner"]
    model = learner["gradient_booster"]["model"]
    first = model["trees"][0]
    zeros = {name: [0.0] * len(first[name]) for name in ("split_conditions", "leaf_weights") if name in first}
    stump = model | {
        "trees": [first | zeros],
        "tree_info": [0],
        "iteration_indptr": [0, 1],
        "gbtree_model_param": model["gbtree_model_param"] | {"num_trees": "1"},
    }
    bare = document | {"learner": learner | {"gradient_booster": {"name": "gbtree", "model": stump}}}
    booster = xgb.Booster()
    booster.load_model(bytearray(json.dumps(bare).encode()))
    row = np.full((1, booster.num_features()), np.nan, np.float32)
    margin = booster.predict(xgb.DMatrix(row, nthread=1), output_margin=True, validate_features=False)
    return np.asarray(margin, np.float32).reshape(-1)


def _flatten(
    tree: dict[str, Any], n_outputs: int, *, first_node: int, first_leaf: int
) -> tuple[NDArray[np.void], NDArray[np.float32]]:
    left = np.array(tree["left_children"], np.int32)
    right = np.array(tree["right_children"], np.int32)
    inner = left >= 0
    if any(tree["split_type"]) or (right[inner] != left[inner] + 1).any():
        raise ValueError(f"tree {tree['id']} has categorical splits or was pruned: train with tree_method='hist'")
    is_vector = int(tree["tree_param"]["size_leaf_vector"]) > 1
    if not is_vector and n_outputs > 1:
        raise ValueError("one tree per class: train with multi_strategy='multi_output_tree', one walk for all classes")
    thresholds = np.array(tree["split_conditions"], np.float32)
    nodes = np.zeros(left.size, _NODE)
    nodes["threshold"] = np.where(inner, thresholds, np.nan)
    nodes["left"] = np.where(inner, left, np.arange(left.size)) + first_node
    nodes["feature"] = np.where(inner, tree["split_indices"], 0)
    nodes["missing_right"] = inner & (np.array(tree["default_left"]) == 0)
    # Of vector leaves, XGBoost keeps the row of a leaf's weights in its `right_children`.
    nodes["leaf"][~inner] = first_leaf + (right[~inner] if is_vector else np.arange((~inner).sum()))
    leaves = np.array(tree["leaf_weights"], np.float32) if is_vector else thresholds[~inner]
    return nodes, leaves.reshape(-1, n_outputs)


def _depth(tree: dict[str, Any]) -> int:
    parents = tree["parents"]
    depth = [0] * len(parents)
    for node in range(1, len(parents)):  # a parent comes before its children
        depth[node] = depth[parents[node]] + 1
    return max(depth)


@kernel
def _walk(
    nodes: NDArray[np.void],
    roots: NDArray[np.uint32],
    depth: int,
    leaves: NDArray[np.float32],
    base: NDArray[np.float32],
    X: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    # All trees of a row go down one level together. The steps of a level don't wait for each other and nothing
    # branches on data, so the processor overlaps them: three times as fast as one tree after another.
    at = np.empty(roots.size, np.uint32)
    for row in range(X.shape[0]):
        features = X[row]
        at[:] = roots
        for _ in range(depth):
            for tree in range(roots.size):
                node = nodes[at[tree]]
                x = features[node.feature]
                at[tree] = node.left + (np.uint32(x >= node.threshold) | (np.uint32(x != x) & node.missing_right))
        out[row] = base
        for tree in range(roots.size):
            leaf = nodes[at[tree]].leaf
            for k in range(base.size):
                out[row, k] += leaves[leaf, k]
