"""Which problems are variations of one another.

SVAMP (Patel et al. 2021, arXiv:2103.07191, section 4) rewrote about 100 seed problems into 1000: other numbers,
another question, an added sentence, two objects exchanged. The file does not say which seed a problem came from, but
a variation keeps names, objects and scene, so its rare words give the seed away.

Two problems are linked when their words (without digits), weighted by rarity, overlap by `MIN_OVERLAP`; clusters are
the connected components. On the official file this gives 97 clusters of at most 29 problems, close to the number of
seeds, and it moves slowly with the threshold: 90 clusters at 0.35, 107 at 0.5. Below 0.35 different seeds run
together.
"""

import math
import re
from collections import defaultdict

MIN_OVERLAP = 0.4  # weighted Jaccard similarity

WORD = re.compile(r"[a-z]+")


def cluster(texts: list[str]) -> list[str]:
    """Name the cluster of each text: its alphabetically first member, so that the order of texts does not matter.

    The names of a subset of texts may differ: cluster together what is to be kept apart.
    """
    words = [frozenset(WORD.findall(text.lower())) for text in texts]
    holders: dict[str, list[int]] = defaultdict(list)
    for index, own in enumerate(words):
        for word in own:
            holders[word].append(index)
    weight = {word: math.log(len(texts) / len(indices)) for word, indices in holders.items()}
    total = [math.fsum(weight[word] for word in own) for own in words]
    parent = list(range(len(texts)))
    for index, own in enumerate(words):
        shared: defaultdict[int, float] = defaultdict(float)
        for word in sorted(own):  # sorted: sums of floats depend on their order, and sets on the hash seed
            for other in holders[word]:
                if other >= index:
                    break
                shared[other] += weight[word]
        for other, common in shared.items():
            if common >= MIN_OVERLAP * (total[index] + total[other] - common):
                parent[_root(parent, index)] = _root(parent, other)
    roots = [_root(parent, index) for index in range(len(texts))]
    names: dict[int, str] = {}
    for root, text in zip(roots, texts, strict=True):
        names[root] = min(names.get(root, text), text)
    return [names[root] for root in roots]


def _root(parent: list[int], index: int) -> int:
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = parent[index]
    return index
