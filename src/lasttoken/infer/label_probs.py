"""Probabilities of labels from a prompted language model: every label's answer scored, exactly or within a tolerance."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lasttoken.infer.batches import in_batches
from lasttoken.infer.scoring import TreeBatch, lay_out_trees, score
from lasttoken.infer.tolerance import bounded_probs, index_tree
from lasttoken.journal import Progress, unheard
from lasttoken.labels import LabelSpace
from lasttoken.model.backbone import Backbone
from lasttoken.model.kv_cache import prefill
from lasttoken.text.answer_tree import MOST, Path, Tree, grow, in_groups
from lasttoken.text.prompt import Prompt
from lasttoken.text.tokenizer import Encoded
from lasttoken.train.distributed import ALONE, World


def answer_paths(prompt: Prompt, labels: LabelSpace) -> list[Path]:
    """The paths scored for every row: one per label, or with several labels yes (path 2j) and no (path 2j + 1)."""
    if not labels.multi:
        return [prompt.answer_path(j) for j in range(len(labels))]
    return [prompt.question_path(j, applies) for j in range(len(labels)) for applies in (True, False)]


def answer_trees(prompt: Prompt, labels: LabelSpace) -> list[tuple[np.ndarray, Tree]]:
    """The trees scored for every row, each as (path numbers (n,), tree).

    One tree has MOST nodes at most; labels that need more are split over several, and the text runs once per tree.
    """
    paths = answer_paths(prompt, labels)
    return [(group, grow([paths[i] for i in group])) for group in in_groups(paths, MOST)]


def label_probs(
    backbone: Backbone,
    prompt: Prompt,
    encoded: Encoded,
    labels: LabelSpace,
    *,
    budget: int,
    tolerance: float = 0.0,
    world: World = ALONE,
    progress: Progress = unheard,
) -> np.ndarray:
    """Probabilities (N, C) float64 in the order of `encoded`, the same in every process: exact, or within `tolerance`."""
    if tolerance and not labels.multi and not backbone.padded and not backbone.sharded:
        return tolerated_probs(
            backbone, prompt, encoded, budget=budget, tolerance=tolerance, world=world, progress=progress
        )
    trees, count = answer_trees(prompt, labels), len(encoded)
    lengths = np.concatenate([encoded.lengths + len(tree.tokens) for _, tree in trees])
    several = lengths.sum() > budget  # batches: only then does caching the header pay
    header = prefill(backbone, prompt.header) if several and not backbone.padded else prompt.header
    scores = torch.zeros(count, sum(tree.paths for _, tree in trees), dtype=torch.float64)

    def compute(jobs: np.ndarray) -> list[Tensor]:  # job k: row k % count behind tree k // count
        texts, job_trees = [encoded.ids[k % count] for k in jobs], [trees[k // count][1] for k in jobs]
        batch: TreeBatch = lay_out_trees(backbone, header, texts, job_trees)
        with backbone.autocast():
            return list(torch.cat(score(backbone, batch)).cpu().double().split(batch.paths))

    for jobs, found in in_batches(lengths, compute, backbone, budget=budget, world=world, progress=progress):
        for k, one in zip(jobs, found, strict=True):
            scores[k % count, trees[k // count][0]] = one
    world.add([scores])
    if not labels.multi:
        return scores.softmax(dim=1).numpy()
    return (scores[:, 0::2] - scores[:, 1::2]).sigmoid().numpy()


def tolerated_probs(
    backbone: Backbone,
    prompt: Prompt,
    encoded: Encoded,
    *,
    budget: int,
    tolerance: float,
    world: World,
    progress: Progress,
) -> np.ndarray:
    """Probabilities (N, C) float64 of one label a row, each within `tolerance` of the exact one (infer/tolerance.py)."""
    index = index_tree(grow([((), answer) for answer in prompt.answers]))
    header, footer = prefill(backbone, prompt.header), np.array(prompt.footer, dtype=np.int64)
    probs = torch.zeros(len(encoded), len(prompt.answers), dtype=torch.float64)

    def compute(rows: np.ndarray) -> np.ndarray:
        texts = [np.concatenate([encoded.ids[i], footer]) for i in rows]
        return bounded_probs(backbone, index, header, texts, tolerance=tolerance, budget=budget)

    lengths = encoded.lengths + len(footer)
    for rows, found in in_batches(lengths, compute, backbone, budget=budget, world=world, progress=progress):
        probs[torch.from_numpy(rows)] = torch.from_numpy(found)
    world.add([probs])
    return probs.numpy()
