"""The scoring kernel: one compiled walk over XGBoost's trees that costs the same a row at one row as at thousands.

XGBoost's own predictor takes 326 µs for a single row and 3 µs a row at 4,096; live batches are small. The walk gives
XGBoost's margins bit for bit: float32, base score first, trees in order, `x < threshold` to the left, missing to the
default side. `online.models.bundle` holds it to that at every load. It reads without a check of any index: that each
one is inside is what `online.models.booster_file` has seen to, and `margins`.
"""

import json
from typing import Any, NamedTuple

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from online.models import booster_file
from online.models.booster_file import Saved, Tree
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
        return cls.from_saved(booster_file.read(bytes(booster.save_raw("ubj"))))

    @classmethod
    def from_saved(cls, saved: Saved) -> "Forest":
        """Flatten what was read from a booster's file; `ValueError` where XGBoost gives other outputs than it says."""
        base = _base_margin(saved)
        if base.size != saved.n_outputs:
            raise ValueError(f"XGBoost makes {base.size} outputs of it, its leaves have {saved.n_outputs}")
        nodes: list[NDArray[np.void]] = []
        leaves: list[NDArray[np.float32]] = []
        roots, rows = [0], [0]
        for tree in saved.trees:
            of_tree = _flatten(tree, saved.n_outputs, first_node=roots[-1], first_leaf=rows[-1])
            nodes.append(of_tree[0])
            leaves.append(of_tree[1])
            roots.append(roots[-1] + len(of_tree[0]))
            rows.append(rows[-1] + len(of_tree[1]))
        return cls(
            nodes=np.concatenate(nodes),
            roots=np.array(roots[:-1], np.uint32),
            depth=max(map(booster_file.depth, saved.trees)),
            leaves=np.concatenate(leaves),
            base=base,
            n_features=saved.n_features,
        )

    def margins(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the raw margins, shape (n, k), of the rows of `X`, shape (n, n_features), NaN where missing."""
        if X.ndim != 2 or X.shape[1] != self.n_features or X.dtype != np.float32:
            raise ValueError(f"X is {X.dtype} of shape {X.shape}, the trees read float32 of (n, {self.n_features})")
        out = np.empty((X.shape[0], self.base.size), np.float32)
        _walk(self.nodes, self.roots, self.depth, self.leaves, self.base, X, out)
        return out


def _base_margin(saved: Saved) -> NDArray[np.float32]:
    # The file keeps a probability where the objective has one. Which bits its margin has is for XGBoost to say: we ask
    # the same model with its first tree only, all leaves 0. (Without any tree it takes the model for untrained.)
    learner = saved.document["learner"]
    model = learner["gradient_booster"]["model"]
    stump = model | {
        "trees": [_without_weights(model["trees"][0])],
        "tree_info": [0],
        "iteration_indptr": [0, 1],
        "gbtree_model_param": model["gbtree_model_param"] | {"num_trees": "1"},
    }
    bare = saved.document | {"learner": learner | {"gradient_booster": {"name": "gbtree", "model": stump}}}
    booster = xgb.Booster({"nthread": 1})
    booster.load_model(bytearray(json.dumps(bare, default=np.ndarray.tolist).encode()))
    row = np.full((1, saved.n_features), np.nan, np.float32)
    margin = booster.predict(xgb.DMatrix(row, nthread=1), output_margin=True, validate_features=False)
    return np.asarray(margin, np.float32).reshape(-1)


def _without_weights(tree: dict[str, Any]) -> dict[str, Any]:
    floats = {name: column for name, column in tree.items() if getattr(column, "dtype", None) == ">f4"}
    return tree | {name: np.zeros_like(column) for name, column in floats.items()}


def _flatten(
    tree: Tree, n_outputs: int, *, first_node: int, first_leaf: int
) -> tuple[NDArray[np.void], NDArray[np.float32]]:
    inner = tree.left_children >= 0
    n = inner.size
    nodes = np.zeros(n, _NODE)
    nodes["threshold"] = np.where(inner, tree.split_conditions, np.nan)
    nodes["left"] = np.where(inner, tree.left_children, np.arange(n)) + first_node
    nodes["feature"] = np.where(inner, tree.split_indices, 0)
    nodes["missing_right"] = inner & (tree.default_left == 0)
    rows = tree.right_children[~inner] if tree.has_vectors else np.arange(n - inner.sum())
    nodes["leaf"][~inner] = first_leaf + rows
    leaves = tree.split_conditions[~inner] if tree.leaf_weights is None else tree.leaf_weights
    return nodes, leaves.astype(np.float32).reshape(-1, n_outputs)


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
