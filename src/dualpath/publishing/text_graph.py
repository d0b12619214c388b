"""The text encoder of a bundle, in the smallest form that finds the same images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dualpath.data.tokenizer import Tokenizer, trim_padding
from dualpath.errors import PublishError
from dualpath.inference.runtimes import Engine, open_engine
from dualpath.types import IntArray, Vectors

WeightType = Literal["int8", "fp16", "fp32"]
WeightChoice = Literal["auto", "int8", "fp16", "fp32"]
MAX_LOSS = 0.5  # points of R@10 that smaller weights and vectors may cost
_TOP = 10
_BATCH = 64  # captions
_SMALL = 1024  # values; a smaller tensor remains in single precision


@dataclass(frozen=True)
class RecallTest:
    """Captions of a gallery and the images that they belong to.

    Attributes:
        captions: sentences.
        rows: the row of the image of each caption, (captions,).
        vectors: of all images, (images, dim).
    """

    captions: Sequence[str]
    rows: IntArray
    vectors: Vectors

    def recall(self, queries: Vectors, vectors: Vectors) -> float:
        """Return R@10 in percent of query vectors, (captions, dim), over image vectors."""
        found = 0
        for start in range(0, len(queries), _BATCH):
            rows = self.rows[start : start + _BATCH]
            scores = queries[start : start + _BATCH] @ vectors.T
            own = scores[np.arange(len(rows)), rows]
            found += int(((scores > own[:, None]).sum(axis=1) < _TOP).sum())
        return 100 * found / max(1, len(queries))

    def agreement(self, queries: Vectors, found: Vectors, vectors: Vectors) -> float:
        """Return the mean share in percent of the ten nearest images that two searches have alike.

        Args:
            queries: exact query vectors, which search the exact image vectors.
            found: other vectors of the same queries.
            vectors: other vectors of the images.
        """
        alike = 0
        for start in range(0, len(queries), _BATCH):
            rows = slice(start, start + _BATCH)
            for exact, other in zip(
                _nearest(queries[rows], self.vectors), _nearest(found[rows], vectors), strict=True
            ):
                alike += len(set(exact.tolist()) & set(other.tolist()))
        return 100 * alike / (len(queries) * min(_TOP, len(vectors)))


@dataclass(frozen=True)
class ChosenGraph:
    """The graph that is published.

    Attributes:
        weights: how its weights are stored. It always computes in single precision.
        exact_recall: R@10 in percent with fp32 weights and vectors. None: the gallery has no
            captions, so nothing is measured and the weights are fp32.
        recall: R@10 in percent with the published weights and the first 8 bits of the vectors.
        agreement: mean share of the ten nearest images that fp32 also finds, in percent.
    """

    weights: WeightType
    exact_recall: float | None
    recall: float | None
    agreement: float | None


def choose_graph(
    source: Path,
    target: Path,
    tokenizer: Tokenizer,
    test: RecallTest,
    rough: Vectors,
    weights: WeightChoice = "auto",
) -> ChosenGraph:
    """Write the smallest graph whose R@10 is at most 0.5 points below that of fp32.

    Args:
        source: the ONNX file of the bundle.
        target: file to write.
        tokenizer: of the bundle.
        test: captions to compare with.
        rough: the image vectors as they are published, (images, dim).
        weights: ``auto``, or the form of the weights to write whatever its recall.

    Raises:
        PublishError: ``weights`` requires the package onnx, which is missing, or the graph computes
            vectors of another length than the gallery has.
    """
    token_ids = tokenizer.encode(list(test.captions) or ["a"])
    queries = embed(open_engine(source), token_ids)
    if queries.shape[1] != test.vectors.shape[1]:
        raise PublishError(
            f"{source}: computes {queries.shape[1]} values, but the gallery has "
            f"{test.vectors.shape[1]}; export the bundle again"
        )
    tried: tuple[WeightType, ...] = ("int8", "fp16", "fp32") if weights == "auto" else (weights,)
    if weights == "auto" and (not test.captions or find_spec("onnx") is None):
        tried = ("fp32",)
    for form in tried:
        _write_graph(source, target, form)
        if not test.captions:
            break
        found = embed(open_engine(target), token_ids)
        exact, recall = test.recall(queries, test.vectors), test.recall(found, rough)
        if exact - recall <= MAX_LOSS or form == tried[-1]:
            return ChosenGraph(form, exact, recall, test.agreement(queries, found, rough))
    return ChosenGraph(tried[-1], None, None, None)


def embed(engine: Engine, token_ids: IntArray) -> Vectors:
    """Embed token ids, (texts, words), as unit vectors, (texts, dim)."""
    batches = []
    for start in range(0, len(token_ids), _BATCH):
        features = engine(trim_padding(token_ids[start : start + _BATCH]))
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
        batches.append(features / np.maximum(lengths, 1e-12))
    return np.concatenate(batches).astype(np.float32)


def _nearest(queries: Vectors, vectors: Vectors) -> IntArray:
    top = min(_TOP, len(vectors))
    nearest: IntArray = np.argpartition(-(queries @ vectors.T), top - 1, axis=1)[:, :top]
    return nearest


def _write_graph(source: Path, target: Path, form: WeightType) -> None:
    if form == "fp32":
        target.write_bytes(source.read_bytes())
        return
    try:
        import onnx
    except ImportError as error:
        raise PublishError(
            f"weights in {form} require the package onnx: pip install 'dualpath[export]'"
        ) from error
    model = onnx.load(str(source))
    _replace_weights(model.graph, _to_int8 if form == "int8" else _to_fp16)
    onnx.save(model, str(target))


def _replace_weights(graph: Any, shrink: Callable[[Any], Any]) -> None:
    """Store large weights in fewer bits, with nodes that restore them when the graph loads."""
    from onnx import TensorProto, numpy_helper

    first_nodes, initializers = [], []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < _SMALL:
            initializers.append(tensor)
            continue
        tensors, nodes = shrink((tensor.name, numpy_helper.to_array(tensor)))
        initializers += tensors
        first_nodes += nodes
    nodes = [*first_nodes, *graph.node]
    del graph.initializer[:]
    del graph.node[:]
    graph.initializer.extend(initializers)
    graph.node.extend(nodes)


def _to_fp16(weight: tuple[str, Any]) -> tuple[list[Any], list[Any]]:
    from onnx import TensorProto, helper, numpy_helper

    name, values = weight
    stored = numpy_helper.from_array(values.astype(np.float16), f"{name}.fp16")
    return [stored], [helper.make_node("Cast", [stored.name], [name], to=TensorProto.FLOAT)]


def _to_int8(weight: tuple[str, Any]) -> tuple[list[Any], list[Any]]:
    """Quantise with one scale for each row of the first axis: an output channel or a word."""
    from onnx import TensorProto, helper, numpy_helper

    name, values = weight
    axes = tuple(range(1, values.ndim))
    largest = np.abs(values).max(axis=axes, keepdims=True) if axes else np.abs(values).max()
    scale = np.maximum(np.asarray(largest, np.float32) / 127, 1e-12).astype(np.float32)
    codes = np.round(values / scale).clip(-127, 127).astype(np.int8)
    tensors = [
        numpy_helper.from_array(codes, f"{name}.int8"),
        numpy_helper.from_array(scale, f"{name}.scale"),
    ]
    nodes = [
        helper.make_node("Cast", [tensors[0].name], [f"{name}.steps"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}.steps", tensors[1].name], [name]),
    ]
    return tensors, nodes
