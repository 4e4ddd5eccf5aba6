"""The oracle: what a search should answer, in float64, loops and plain NumPy.

Written from the definitions and imports nothing from `funnel`, so that it can judge
it. Slow on purpose; nothing here is clever. Every fast path has its twin below.

n = rows, d = full dims, c = candidates, k = answers. Queries are (d,), rows (n, d);
scores are higher-is-better everywhere.
"""

from __future__ import annotations

import math

import numpy as np

LAYER_NORM_EPSILON = 1e-5
TIE = 1e-6


# ---- numbers


def half_to_float(bits):
    """Return the number whose IEEE 754 half-precision bits are the int `bits`."""
    sign = -1.0 if bits & 0x8000 else 1.0
    exponent, fraction = (bits >> 10) & 0x1F, bits & 0x3FF
    if exponent == 0:
        return sign * fraction * 2.0**-24
    if exponent == 31:
        return float("nan") if fraction else sign * float("inf")
    return sign * (1.0 + fraction / 1024.0) * 2.0 ** (exponent - 15)


def norm(vector):
    """Return the Euclidean length."""
    return float(np.sqrt(sum(float(x) * float(x) for x in vector)))


def unit(vector):
    """Return `vector` at length 1; the zero vector stays as it is."""
    length = norm(vector)
    vector = np.asarray(vector, np.float64)
    return vector / length if length > 0 else vector


def layer_norm(vector):
    """Return `vector` less its mean, over its standard deviation (eps 1e-5)."""
    vector = np.asarray(vector, np.float64)
    centred = vector - vector.sum() / len(vector)
    variance = (centred * centred).sum() / len(vector)
    return centred / np.sqrt(variance + LAYER_NORM_EPSILON)


def prefix_norms(rows, dims):
    """Return the length of each prefix of each row, (n, len(dims))."""
    return np.array([[norm(row[:dim]) for dim in dims] for row in rows])


# ---- scores


def prefix_cosine(query, row, dim):
    """Return the cosine of two prefixes; 0 where one of them is zero."""
    return float(unit(query[:dim]) @ unit(row[:dim]))


def prefix_cosines(rows, query, dim):
    """Return `prefix_cosine` against every row."""
    rows = np.asarray(rows, np.float64)[:, :dim]
    lengths = np.sqrt((rows * rows).sum(axis=1))
    products = rows @ unit(query[:dim])
    return np.divide(products, lengths, out=np.zeros(len(rows)), where=lengths > 0)


def lengths_of(rows):
    """Return the full norm of every row."""
    rows = np.asarray(rows, np.float64)
    return np.sqrt((rows * rows).sum(axis=1))


def stage_scores(rows, query, dim, metric):
    """Return what a stage at `dim` ranks by.

    Under "ip" that is the prefix's cosine times both full norms.
    """
    scores = prefix_cosines(rows, query, dim)
    return scores * lengths_of(rows) * norm(query) if metric == "ip" else scores


def final_scores(rows, query, metric):
    """Return the scores that a user gets: the cosine, or the raw inner product."""
    rows, query = np.asarray(rows, np.float64), np.asarray(query, np.float64)
    return rows @ query if metric == "ip" else prefix_cosines(rows, query, len(query))


def axis_scores(rows, query, axes, metric):
    """Return the scores over the coordinates on `axes`, (d, p), renormalised."""
    rows, query = np.asarray(rows, np.float64), np.asarray(query, np.float64)
    axes = np.asarray(axes, np.float64)
    scores = prefix_cosines(rows @ axes, query @ axes, axes.shape[1])
    return scores * lengths_of(rows) * norm(query) if metric == "ip" else scores


def principal_axes(sample, width):
    """Return the `width` directions that hold most energy, (d, width), uncentred."""
    rows = np.array([unit(row) for row in sample])
    _, vectors = np.linalg.eigh(rows.T @ rows)
    return vectors[:, ::-1][:, :width]


# ---- searches


def top(scores, k):
    """Return the places of the `k` best scores, best first, equal ones in order."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k]


def exact_search(rows, query, k, metric):
    """Return the rows and scores of the `k` best at full width."""
    scores = final_scores(rows, query, metric)
    found = top(scores, k)
    return found, scores[found]


def prefix_search(rows, query, k, metric, dim):
    """Return the rows and scores of the `k` best by the own prefix."""
    scores = stage_scores(rows, query, dim, metric)
    found = top(scores, k)
    return found, scores[found]


def axis_search(rows, query, k, metric, axes):
    """Return the rows and scores of the `k` best by given axes."""
    scores = axis_scores(rows, query, axes, metric)
    found = top(scores, k)
    return found, scores[found]


def cascade(rows, query, candidates, stages, metric):
    """Run stages, (dim, keep) each, over candidate rows; return rows and scores.

    Each stage scores the renormalised prefix and keeps the best, in the order they
    had; the last one's are returned best first.
    """
    kept, scores = list(candidates), np.zeros(len(candidates))
    for dim, keep in stages:
        scores = stage_scores(np.asarray(rows)[kept], query, dim, metric)
        places = keep_best(scores, keep)
        kept, scores = [kept[i] for i in places], scores[places]
    order = top(scores, len(scores))
    return [kept[i] for i in order], scores[order]


def keep_best(scores, keep):
    """Return the places of the best `keep` scores in ascending order: a sort."""
    return sorted(top(scores, keep))


# ---- codes and graphs


def code_score(a, b):
    """Return the inner product of two int8 codes as a Python int."""
    return sum(int(x) * int(y) for x, y in zip(a, b, strict=True))


def quantise(vector):
    """Return `vector` as integers whose largest magnitude is 127, and the scale."""
    vector = np.asarray(vector, np.float64)
    largest = np.abs(vector).max(initial=0.0)
    scale = 127 / largest if largest > 0 else 0.0
    return np.rint(vector * scale).astype(int), scale


def quantise_by(vector, unit):
    """Return `vector` as integers in steps of `unit`, none beyond ±127."""
    return [min(max(round(float(x) / unit), -127), 127) for x in vector]


def scan_codes(query, codes, limit):
    """Return the best `limit` (score, node), best first, the higher node first."""
    pairs = [(code_score(query, code), node) for node, code in enumerate(codes)]
    return sorted(pairs, reverse=True)[:limit]


def links_of(neighbours, node, n):
    """Return a node's links: the list ends at the first that is not a node."""
    links = []
    for link in neighbours[node]:
        if not 0 <= link < n:
            break
        links.append(int(link))
    return links


def walk(
    query,
    codes,
    neighbours,
    entries,
    ef,
    stop=(1, 1, 0.0, -1.0, 1, -math.inf, 1),
    passing=(),
):
    """Walk a graph best first; return the best `ef` (score, node), and nodes scored.

    Malkov & Yashunin 2018, arXiv:1603.09320, algorithm 2, one step behind: a node is
    chosen before the links of the one before it are scored. Started from the best of
    the entry nodes. The higher node wins among equal scores. `stop` is a rank, a
    shortlist, a score, a slack, a count, a floor and a guard: no node is expanded whose
    distance (the score less its own) is above 1 + slack times that of the node of that
    rank, nor kept unless it is among the shortlist; nor once so many of the `passing`
    ones, if those are given, have been; nor one below the floor once the best `guard`
    have been. What is below the floor is not returned. Where all may pass, what was
    kept is dropped once it is neither near enough nor among the shortlist.
    """
    score, start = max((code_score(query, codes[e]), -i) for i, e in enumerate(entries))
    entry = int(entries[-start])
    seen, expanded, scored = {entry}, set(), 0
    results, waiting = [(score, entry)], []
    rank, shortlist, top, slack, wanted, floor, guard = stop
    while True:
        limit = -math.inf
        if slack >= 0 and len(results) >= rank:
            limit = math.ceil(top - (1 + slack) * (top - results[rank - 1][0]))
        if len(results) >= guard and all(p[1] in expanded for p in results[:guard]):
            limit = max(limit, floor)
        worth = [p for p in results if p[1] not in expanded and p[0] >= limit]
        enough = sum(bool(passing[n]) for n in expanded if len(passing)) >= wanted
        if (enough or not worth) and not waiting:
            return [pair for pair in results if pair[0] >= floor], scored
        arriving, waiting = waiting, []
        if worth and not enough:
            node = worth[0][1]
            expanded.add(node)
            for link in links_of(neighbours, node, len(codes)):
                if link not in seen:
                    seen.add(link)
                    waiting.append(link)
        scored += len(arriving)
        found = [(code_score(query, codes[node]), node) for node in arriving]
        if len(results) >= shortlist:
            last = results[shortlist - 1]
            found = [pair for pair in found if pair[0] >= limit or pair > last]
        results = sorted(results + found, reverse=True)[:ef]
        if not len(passing):
            near = [p for p in results[shortlist:] if p[0] >= limit]
            results = results[:shortlist] + near


def refine(query, tails, pairs, keep):
    """Return the best `keep` (score, node), scores being of the tails as well."""
    whole = [(score + code_score(query, tails[node]), node) for score, node in pairs]
    return sorted(whole, reverse=True)[:keep]


def choose_links(pairs, codes, limit):
    """Return the nodes of (score, node) pairs, best first, that HNSW would link to.

    Malkov & Yashunin 2018, arXiv:1603.09320, algorithm 4.
    """
    kept = []
    for score, node in pairs:
        if all(code_score(codes[node], codes[other]) <= score for other in kept):
            kept.append(node)
        if len(kept) == limit:
            break
    return kept


def join(first, second):
    """Return the links of two graphs, lists of −1-padded lists, each end once."""
    joined = []
    for a, b in zip(first, second, strict=True):
        ends = [end for end in a if end >= 0]
        ends += [end for end in b if end >= 0 and end not in ends]
        joined.append(ends)
    return joined


def grow(codes, M, ef, order, batches, entry_count):
    """Return the links of a graph that grows by `batches` of `order`, as lists.

    The nodes of a batch are found in the graph before it.
    """
    links = [[] for _ in codes]
    for start, stop in batches:
        entries = order[: min(start, entry_count)]
        padded = [[*one, -1] for one in links]
        found = {}
        for node in order[start:stop]:
            pairs, _ = walk(codes[node], codes, padded, entries, ef)
            found[int(node)] = choose_links(pairs, codes, M)
        for node, chosen in found.items():
            links[node] = list(chosen)
        link_back(links, found, codes, 2 * M)
    return links


def nearest_by_cells(query, codes, centres, cells, wanted, limit, salt=0):
    """Return the best `limit` (score, node) of the `wanted` best cells, and the cells.

    Among equal scores the node wins that XOR the salt makes the greatest number, the
    lower cell among equal centres.
    """
    ranked = sorted((-code_score(query, one), cell) for cell, one in enumerate(centres))
    probed = [cell for _, cell in ranked[:wanted]]
    nodes = [node for node, cell in enumerate(cells) if cell in probed]
    pairs = [(code_score(query, codes[node]), node ^ salt) for node in nodes]
    best = sorted(pairs, reverse=True)[:limit]
    return [(score, number ^ salt) for score, number in best], probed


def knit(codes, centres, cells, middles, M, limit, wanted):
    """Return the nodes that each node links to among the nearest by cells, as lists.

    Candidates are the nearest of a node, then the middles of its cells that lie behind;
    half of `M` there are at least, if need be of the nearest.
    """
    links = []
    for node, code in enumerate(codes):
        salt = (node * 2_654_435_761 % 2**32) >> 1
        best, probed = nearest_by_cells(
            code, codes, centres, cells, wanted, limit, salt
        )
        near = [pair for pair in best if pair[1] != node]
        middle = [middles[cell] for cell in probed if middles[cell] not in (-1, node)]
        far = [(code_score(code, codes[other]), other) for other in middle]
        far = [
            pair
            for pair in sorted(far, reverse=True)
            if not near or pair[0] < near[-1][0]
        ]
        chosen = choose_links(near + far, codes, M)
        others = [other for _, other in near if other not in chosen]
        links.append(chosen + others[: max(0, -(-M // 2) - len(chosen))])
    return links


def turn_back(links, codes, limit):
    """Link the ends of all links back, in place."""
    link_back(links, {n: list(ends) for n, ends in enumerate(links)}, codes, limit)


def link_back(links, found, codes, limit):
    """Add the links that `found`, node → ends, turned around makes, in place."""
    back = {}
    for node, chosen in found.items():
        for end in chosen:
            back.setdefault(int(end), []).append(node)
    for end, nodes in back.items():
        links[end] += [node for node in nodes if node not in links[end]]
        if len(links[end]) > limit:
            pairs = [(code_score(codes[end], codes[i]), i) for i in links[end]]
            links[end] = choose_links(sorted(pairs, reverse=True), codes, limit)


def lead_to_all(links, limit, fewest, enough):
    """Let some links lead to each node, from those that it links to, in place.

    The last link of a full list makes room whose end has more than enough.
    """
    degrees = [sum(node in ends for ends in links) for node in range(len(links))]
    for node, ends in enumerate(links):
        for near in list(ends):
            if degrees[node] >= fewest or near == node:
                continue
            spare = [j for j, end in enumerate(links[near]) if degrees[end] > enough]
            if node in links[near]:
                continue
            if len(links[near]) < limit:
                links[near].append(node)
            elif spare:
                degrees[links[near][spare[-1]]] -= 1
                links[near][spare[-1]] = node
            else:
                continue
            degrees[node] += 1


def weave(links, nodes, found, added, limit):
    """Add links among a sample, there and back, in place: the last ones make room.

    No more than half of a list is ever added.
    """
    for i, places in enumerate(found):
        for place in places:
            for node, end in ((nodes[i], nodes[place]), (nodes[place], nodes[i])):
                if end in links[node]:
                    continue
                if len(links[node]) < limit:
                    links[node].append(end)
                elif 2 * added[node] < limit:
                    links[node][limit - 1 - added[node]] = end
                else:
                    continue
                added[node] += 1


def reachable(neighbours, starts):
    """Return the nodes that links lead to from `starts`, breadth first."""
    seen, queue = set(), [int(s) for s in starts]
    while queue:
        node = queue.pop(0)
        if node not in seen:
            seen.add(node)
            queue += links_of(neighbours, node, len(neighbours))
    return seen


# ---- judging


def knn_recall(found, scores, k, tie=TIE):
    """Return the share of the true `k` best that were found.

    Parameters
    ----------
    found : rows that were returned, −1 where there was none
    scores : (n,) exact scores of all rows
        A row counts if its score is at least the k-th best − `tie`, so that
        duplicates stand for each other.
    """
    k = min(k, len(scores))
    worst = sorted(scores, reverse=True)[k - 1] - tie
    good = {int(row) for row in found if row >= 0 and scores[row] >= worst}
    return min(len(good), k) / k


def assert_same_ranking(rows, scores, oracle, tolerance):
    """Assert that an answer is a best-k of `oracle`, whatever it did with near ties.

    Parameters
    ----------
    rows, scores : (k,)
        The answer, best first.
    oracle : (n,) float64
        The true score of every row.
    tolerance : float
        How far float32 may be off.
    """
    rows, scores = np.asarray(rows), np.asarray(scores, np.float64)
    assert rows.ndim == 1, f"one query's rows have 1 axis, not {rows.ndim}"
    assert rows.shape == scores.shape, f"{rows.shape} rows, {scores.shape} scores"
    k = len(rows)
    assert k <= len(oracle), f"{k} answers from {len(oracle)} rows"
    outside = rows[(rows < 0) | (rows >= len(oracle))]
    assert not len(outside), f"not rows: {outside.tolist()}"
    assert len(set(rows.tolist())) == k, f"a row comes twice: {rows.tolist()}"
    assert (np.diff(scores) <= 0).all(), f"not best first: {scores.tolist()}"
    off = np.abs(scores - oracle[rows]).max(initial=0.0)
    assert off <= tolerance, f"scores are off by {off:.3g} > {tolerance:.3g}"
    if k:
        worst = np.sort(oracle)[::-1][k - 1]
        missing = worst - oracle[rows].min()
        assert missing <= tolerance, f"a row is {missing:.3g} below the {k}-th best"


def least_level(losses, allowed):
    """Return the first level that conformal risk control takes; None if none.

    Angelopoulos et al. 2022, arXiv:2208.02814, equation 4, losses of at most 1: by
    trying each level, each loss the worst of its level and those above.
    """
    n, levels = len(losses), len(losses[0])
    for level in range(levels):
        total = sum(max(row[level:]) for row in losses)
        if n / (n + 1) * (total / n) + 1 / (n + 1) <= allowed:
            return level
    return None


def binomial_cdf(most, n, share):
    """Return the probability of at most `most` of `n`, each of probability `share`."""
    return sum(
        math.comb(n, c) * share**c * (1 - share) ** (n - c)
        for c in range(min(most, n) + 1)
    )


def dcg(gains, k):
    """Return the discounted cumulative gain of the first k; Järvelin & Kekäläinen."""
    return sum(gain / math.log2(i + 2) for i, gain in enumerate(gains[:k]))


def rank_movement(rows, query, dims, metric):
    """Return how much the rank of each hit moves over `dims`, a share of the most.

    `rows` are the hits, best first. Of each, the mean over `dims` of how far its rank
    among the hits by that prefix is from its rank as a hit, over the number of hits
    less one; equal scores keep the order of the hits.
    """
    found = []
    for rank in range(len(rows)):
        moves = []
        for dim in dims:
            ranked = top(stage_scores(rows, query, dim, metric), len(rows))
            moves.append(abs(ranked.index(rank) - rank))
        share = sum(moves) / max(len(moves), 1) / max(len(rows) - 1, 1)
        found.append(share)
    return found


def pages_of(ranges):
    """Return how many pages of 4,096 bytes hold a byte of some (start, stop) ranges."""
    return len({byte // 4096 for start, stop in ranges for byte in range(start, stop)})


# ---- adaptive classification


def adaptive_stage(confidences, thresholds):
    """Return the first stage whose confidence is above its threshold, else the last.

    Kusupati et al. 2022, arXiv:2205.13147, section 4.2.1.
    """
    for stage, threshold in enumerate(thresholds):
        if confidences[stage] > threshold:
            return stage
    return len(confidences) - 1


def adaptive_label(row, heads, thresholds):
    """Return the class and the probabilities of a row by (dim, weights, bias) heads."""
    shares, row = [], np.asarray(row, np.float64)
    for dim, weights, bias in heads:
        logits = [float(w @ row[:dim] + b) for w, b in zip(weights, bias, strict=True)]
        powers = [math.exp(logit - max(logits)) for logit in logits]
        shares.append([power / sum(powers) for power in powers])
    stage = adaptive_stage([max(one) for one in shares], thresholds)
    return shares[stage].index(max(shares[stage])), shares[stage]


def best_pair_thresholds(confidences, right):
    """Return a threshold a pair of neighbouring heads: the smallest of the best.

    The same paper's grid search over 100 points of [0, 1], each pair on its own.
    """
    grid = [i / 99 for i in range(100)]
    found = []
    for stage in range(len(confidences[0]) - 1):
        hits = [
            sum(
                bool(hit[stage] if sure[stage] > point else hit[stage + 1])
                for sure, hit in zip(confidences, right, strict=True)
            )
            for point in grid
        ]
        found.append(grid[hits.index(max(hits))])
    return found


def risk_level(confidences, right, alpha):
    """Return the lowest level whose corrected monotone loss is at most `alpha`.

    Angelopoulos et al. 2022, arXiv:2208.02814. At a level, stage j stops what is above
    its j-th power (from 1): the j-th root of the confidence is above the level. A row's
    loss at a level is 1 if, at it or at a higher one, it stops at a wrong label while
    the last head is right. Decisions change at roots only: those and 0 are tried.
    """
    n, last = len(confidences), len(confidences[0]) - 1
    roots = [
        [row[j] ** (1 / (j + 1)) for j in range(last)] + [0] for row in confidences
    ]
    harmed_above, best = set(), math.inf
    if alpha * (n + 1) < 1:
        return best
    for level in sorted({0.0, *(x for row in roots for x in row)}, reverse=True):
        for i in range(n):
            stage = adaptive_stage(roots[i], [level] * last)
            if right[i][-1] and not right[i][stage]:
                harmed_above.add(i)
        if len(harmed_above) + 1 > alpha * (n + 1):
            return best
        best = level
    return best


# ---- diagnosis


def energy_shares(rows, dims):
    """Return the mean share of a row's squared norm that each prefix holds."""
    shares = [[norm(row[:dim]) ** 2 / norm(row) ** 2 for row in rows] for dim in dims]
    return [sum(one) / len(rows) for one in shares]


def exact_top(rows, query, own, k=10):
    """Return the rows of the `k` best cosines, but for `own`, which is the query."""
    found = top(final_scores(rows, query, "cosine"), k + 1)
    return [row for row in found if row != own][:k]


def prefix_rank(rows, query, own, dim, row):
    """Return how many rows a prefix scores at least as high as `row`, itself too."""
    scores = prefix_cosines(rows, query, dim)
    return sum(scores[i] >= scores[row] for i in range(len(rows)) if i != own)


def prefix_recall(rows, queries, owns, dim, shortlist):
    """Return the share of the exact top 10 that a prefix's shortlist holds."""
    held = [
        prefix_rank(rows, query, own, dim, row) <= shortlist
        for query, own in zip(queries, owns, strict=True)
        for row in exact_top(rows, query, own)
    ]
    return sum(held) / len(held)


def relative_contrast(rows, queries, owns, copy=1e-6):
    """Return the mean distance of unit rows over the mean distance of the nearest.

    He et al. 2012, arXiv:1206.6411, equation 2. Rows whose cosine is within `copy` of 1
    are the query again, and do not count.
    """
    distances, nearest = [], []
    for query, own in zip(queries, owns, strict=True):
        mine = [
            norm(unit(query) - unit(row))
            for i, row in enumerate(rows)
            if i != own and unit(query) @ unit(row) < 1 - copy
        ]
        distances += mine
        nearest += [min(mine)] if mine else []
    if not nearest:
        return None
    return (sum(distances) / len(distances)) / (sum(nearest) / len(nearest))


def highest_score(vector, query, axes, error, by_norm):
    """Return what a row can score at most, by what a code of `axes` tells of it.

    `error` is how far the product of the codes may be from that of the coordinates, at
    unit norm. Cauchy and Schwarz bound the rest, which lies outside the axes.
    """
    full = np.linalg.norm(vector)
    x, q = vector / full, query / np.linalg.norm(query)
    inside, held = axes @ x, axes @ q
    rest = math.sqrt(max(0, 1 - inside @ inside) * max(0, 1 - held @ held))
    room = error * np.linalg.norm(inside) * np.linalg.norm(held)
    return float(inside @ held + room + rest) * (full if by_norm else 1)
