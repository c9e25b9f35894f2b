"""What a booster's file says, held to what XGBoost 3.2 writes before XGBoost itself or compiled code rests on it.

A child, a feature or a leaf that isn't there would be read from memory of something else, a cycle walked for ever.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
import xgboost as xgb
from msgspec import Meta
from numpy.typing import NDArray

from online.models import ubjson

DEPTH_MAX = 64
"""Of a tree: `linkcast train` makes trees of 6."""

_Count = Annotated[str, Meta(pattern="^[0-9]{1,9}$")]
_Array = np.ndarray[Any, Any]
_COLUMNS = {
    **dict.fromkeys(("left_children", "right_children", "parents", "split_indices"), ">i4"),
    **dict.fromkeys(("split_conditions", "loss_changes", "sum_hessian"), ">f4"),
    **dict.fromkeys(("default_left", "split_type"), "u1"),
}
_OF_CATEGORIES = ("categories", "categories_nodes", "categories_segments", "categories_sizes")
_NO_PARENT = (-1, 2**31 - 1)  # of trees with vector leaves, and of others


class _Exact(msgspec.Struct, forbid_unknown_fields=True):
    """No field more, and none less."""


class TreeParam(_Exact):
    """Sizes of a tree, in digits."""

    num_deleted: _Count
    num_feature: _Count
    num_nodes: _Count
    size_leaf_vector: _Count


class Tree(_Exact):
    """One tree of n nodes as columns of shape (n,) unless told otherwise; the first is the root."""

    id: int
    left_children: _Array  # -1 in a leaf
    right_children: _Array  # in a leaf with a vector, the row of its weights
    parents: _Array
    split_indices: _Array
    split_conditions: _Array  # in a leaf without a vector, its weight
    default_left: _Array
    split_type: _Array
    loss_changes: _Array
    sum_hessian: _Array
    base_weights: _Array  # (n,), or n vectors
    categories: _Array  # these four: empty
    categories_nodes: _Array
    categories_segments: _Array
    categories_sizes: _Array
    tree_param: TreeParam
    leaf_weights: _Array | None = None  # vectors, as many as leaves

    @property
    def has_vectors(self) -> bool:
        """Whether a leaf has a weight for each output."""
        return self.leaf_weights is not None


class _ForestParam(_Exact):
    num_parallel_tree: Literal["1"]
    num_trees: _Count


class _Categories(_Exact):
    enc: Annotated[list[Any], Meta(max_length=0)]
    feature_segments: _Array
    sorted_idx: _Array


class _Forest(_Exact):
    cats: _Categories
    gbtree_model_param: _ForestParam
    iteration_indptr: list[int]
    tree_info: list[int]
    trees: list[Tree]


class _LearnerParam(_Exact):
    base_score: Annotated[str, Meta(max_length=4_096)]
    boost_from_average: Literal["0", "1"]
    num_class: _Count
    num_feature: _Count
    num_target: Literal["1"]


class _Learner(_Exact):
    attributes: dict[str, str]
    feature_names: list[str]
    feature_types: list[str]
    gradient_booster: dict[str, Any]
    learner_model_param: _LearnerParam
    objective: dict[str, str | dict[str, str]]


class _File(_Exact):
    learner: _Learner
    version: tuple[int, int, int]


class Saved(NamedTuple):
    """A booster as its file has it: every node of every tree is one, with children, feature and leaf that are there."""

    document: dict[str, Any]  # all of it, arrays as NumPy's
    trees: list[Tree]
    n_features: int
    n_outputs: int


def read(content: bytes) -> Saved:
    """Read a `gbtree` booster of XGBoost 3.2 with one output or vector leaves; `ValueError` for anything else."""
    document = ubjson.read(content)
    file = msgspec.convert(document, type=_File)  # a ValidationError is a ValueError
    if list(file.version[:2]) != [int(part) for part in xgb.__version__.split(".")[:2]]:
        raise ValueError(f"saved by XGBoost {file.version}, this is {xgb.__version__}")
    booster, param = file.learner.gradient_booster, file.learner.learner_model_param
    if booster.get("name") != "gbtree":
        raise ValueError("the booster is no gbtree with at least one tree: train it with booster='gbtree'")
    forest = msgspec.convert(booster.get("model"), type=_Forest)
    if not forest.trees:
        raise ValueError("the booster is no gbtree with at least one tree: train it with booster='gbtree'")
    n_features, n_outputs = int(param.num_feature), max(1, int(param.num_class))
    for tree in forest.trees:
        if fault := next(_faults(tree, n_features, n_outputs), None):
            raise ValueError(f"tree {tree.id} {fault}")
    _check_order(forest)
    base = msgspec.json.decode(param.base_score, type=list[float])
    if len(base) not in (1, n_outputs) or not np.isfinite(base).all():
        raise ValueError(f"base_score has {len(base)} numbers for {n_outputs} outputs, or infinite ones")
    return Saved(document, forest.trees, n_features, n_outputs)


def _check_order(forest: _Forest) -> None:
    n, ends = len(forest.trees), forest.iteration_indptr
    if [tree.id for tree in forest.trees] != list(range(n)) or int(forest.gbtree_model_param.num_trees) != n:
        raise ValueError(f"its trees are not numbered from 0 to {n - 1}")
    if forest.tree_info != [0] * n or ends != sorted(ends) or len(ends) < 2 or (ends[0], ends[-1]) != (0, n):
        raise ValueError(f"its rounds are not made of its {n} trees")
    if forest.cats.feature_segments.size or forest.cats.sorted_idx.size:
        raise ValueError("its features have categories: train with numbers")


def _faults(tree: Tree, n_features: int, n_outputs: int) -> Iterator[str]:
    """Yield what is wrong with a tree; each check rests on those before it."""
    n, width = int(tree.tree_param.num_nodes), int(tree.tree_param.size_leaf_vector)
    if n_outputs > 1 and not tree.has_vectors:
        yield "is one of a class: train with multi_strategy='multi_output_tree', one walk for all classes"
    for name, of in _COLUMNS.items():
        column = getattr(tree, name)
        if column.dtype != of or column.shape != (n,) or n == 0:
            yield f"has {column.dtype} of shape {column.shape} as {name}, not {of} of ({n},)"
    left, right, node = tree.left_children, tree.right_children, np.arange(n)
    inner = left >= 0
    if any(getattr(tree, name).size for name in _OF_CATEGORIES) or tree.split_type.any():
        yield "has categorical splits: train with numbers"
    if (right[inner] != left[inner] + 1).any():
        yield "was pruned: train with tree_method='hist'"
    if ((left <= node) & (left != -1)).any() or (left[inner] >= n - 1).any():
        yield "has a child that is not there or comes before its parent"
    if tree.parents[0] not in _NO_PARENT or any((tree.parents[at[inner]] != node[inner]).any() for at in (left, right)):
        yield "has a child of two parents"
    if int(tree.tree_param.num_feature) != n_features or not _within(tree.split_indices[inner], n_features):
        yield f"splits by a feature beyond the {n_features} there are"
    if (tree.default_left > 1).any() or not np.isfinite(tree.split_conditions).all():
        yield "splits by what is no number"
    yield from _faults_of_leaves(tree, inner, width, n_outputs)
    if depth(tree) > DEPTH_MAX:
        yield f"is deeper than {DEPTH_MAX}: train shallower ones"


def _faults_of_leaves(tree: Tree, inner: NDArray[np.bool_], width: int, n_outputs: int) -> Iterator[str]:
    weights, n = tree.leaf_weights, inner.size
    if weights is None:
        is_sound = width <= 1 and (tree.right_children[~inner] == -1).all()
    else:
        rows, rest = divmod(weights.size, width or 1)
        is_sound = (
            width == n_outputs and rest == 0 and weights.dtype == ">f4" and bool(np.isfinite(weights).all())
            and _within(tree.right_children[~inner], rows)
        )  # fmt: skip
    if not is_sound or tree.base_weights.dtype != ">f4" or tree.base_weights.size != n * (width or 1):
        yield f"has leaves without a weight for each of {n_outputs} outputs"


def _within(values: NDArray[Any], end: int) -> bool:
    return bool(((values >= 0) & (values < end)).all())


def depth(tree: Tree) -> int:
    """Return how many steps it is to the deepest leaf."""
    at, steps = np.zeros(1, np.int64), -1
    while at.size:
        at, steps = tree.left_children[at], steps + 1
        at = at[at >= 0].astype(np.int64)
        at = np.concatenate([at, at + 1])
    return steps
