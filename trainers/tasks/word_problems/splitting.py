"""SVAMP's split: whole clusters of variations of one problem, the same split for every seed.

A *cluster* is a set of problems that are variations of one another, see `trainers.tasks.clustering`.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from trainers.tasks.clustering import cluster
from trainers.tasks.word_problems.problems import WordProblem

TEST_SIZE = 300  # as many as in the usual 700 / 300 split, which however divides clusters
VALIDATION_SIZE = 100


def clustered(*sources: Iterable[WordProblem]) -> list[list[WordProblem]]:
    """Problems with the cluster of each, over all sources together."""
    lists = [list(source) for source in sources]
    questions = sorted({problem.question for problems in lists for problem in problems})
    names = dict(zip(questions, cluster(questions), strict=True))
    return [[replace(problem, cluster=names[problem.question]) for problem in problems] for problems in lists]


def carve_clusters(
    source: list[WordProblem], test: list[WordProblem] | None, sizes: dict[str, int | None]
) -> tuple[dict[str, list[WordProblem]], set[str]]:
    """Split SVAMP problems so that no two splits share a cluster; also, which clusters are held out.

    Clusters are taken in an order that is fixed by their names, for test first, then for validation; what a size cuts
    off of the last cluster is left out. Training problems are the rest, without those whose equation does not give the
    answer. At least the default sizes are held out, whatever fewer are asked for: a quick look at a few test problems
    leaves the others as they were, to be tested later.

    Args:
        source: problems with clusters.
        test: a test source, used whole up to `sizes["test"]`; None: test is carved out as well.
        sizes: problems a split; None: what is held out at least, `TEST_SIZE` and `VALIDATION_SIZE`, or less of a small
            source.

    Raises:
        ValueError: nothing is left to train on.
    """
    taken = {problem.cluster for problem in test or ()}
    members = _members(source, taken)
    order = sorted(members, key=lambda name: hashlib.sha256(name.encode()).digest())
    total = sum(map(len, members.values()))
    least = _least_held_out(total, with_test=test is None)
    wanted = {split: (least[split] and sizes[split]) or least[split] for split in least}
    splits: dict[str, list[WordProblem]] = {}
    for split, size in wanted.items():
        splits[split] = _take(members, order, max(size, least[split]))[:size]
    rest = [problem for name in order for problem in members[name] if problem.equations() is not None]
    if not rest:
        raise ValueError(
            f"task.test_size = {wanted['test']} and task.validation_size = {wanted['validation']} leave nothing to "
            f"train on: they take whole clusters of the {total} problems that are not variations of a test file's"
        )
    if test is not None:
        splits["test"] = test[: sizes["test"]]
    return splits | {"train": rest[: sizes["train"]]}, taken | (members.keys() - set(order))


def _members(source: list[WordProblem], taken: set[str]) -> dict[str, list[WordProblem]]:
    """cluster -> its distinct problems, without the clusters that are taken."""
    members: dict[str, list[WordProblem]] = {}
    for problem in {problem.key: problem for problem in source}.values():
        if problem.cluster not in taken:
            members.setdefault(problem.cluster, []).append(problem)
    return members


def _least_held_out(total: int, *, with_test: bool) -> dict[str, int]:
    """How many of `total` problems test and validation hold out at least, in the order in which they take them."""
    return {
        "test": min(TEST_SIZE, total // 3) if with_test else 0,
        "validation": min(VALIDATION_SIZE, max(1, total // 10)),
    }


def _take(members: dict[str, list[WordProblem]], order: list[str], size: int) -> list[WordProblem]:
    """The problems of the first clusters of `order`, which loses them: as many clusters as `size` problems need."""
    taken: list[WordProblem] = []
    while order and len(taken) < size:
        taken += members[order.pop(0)]
    return taken
