"""Latent semantic analysis: every package, and every question in words, becomes a vector of 256 dimensions.

1. Words. Name, description and tags become stems ("photographs", "photography" -> "photo"), and each tag is also a
   word as a whole (`use::editing`). Tags that say how a thing was made, not what it is for, are left out.
2. TF-IDF. A word counts by the field that it stands in and by its rarity.
3. Truncated SVD over the *programs* among the packages: people ask for programs, and the many libraries would spend
   the dimensions on telling each other apart. It gives every word a direction; words that keep company point alike.
4. All directions are made equally long, else rare words ("photographs") drown in frequent ones ("edit"). A package, or
   a question, is the weighted sum of its words' directions, made one long, rounded to five decimals.

The result is cached in a file named after a hash of the input and of this file; with a cache scikit-learn is not
needed. Deterministic: the SVD starts from a fixed seed.
"""
import glob
import hashlib
import json
import os
import re
from collections import Counter

import numpy as np

DIMENSION = 256
SEED = 20

WEIGHT_NAME, WEIGHT_DESCRIPTION, WEIGHT_TAG_WORD, WEIGHT_TAG, WEIGHT_ROLE = 1.0, 2.0, 1.0, 0.5, 3.0
PACKAGES_MIN = 3  # A word of fewer packages has no company to learn from.
PROGRAM = "role::program"

FACETS_LEFT_OUT = {"implemented-in", "uitoolkit", "special", "culture", "x11", "made-of", "suite", "devel", "scope"}
STOP_WORDS = """a about above after again against all also an and another any are as at based be because been before
    both but by can could debian did do does doing down each etc every few for from further get had has have having he
    her here his how i if in into is it its just like made many me more most my no nor not now of off on once one only
    or other our out over own package per program same she should simple so software some such than that the their
    them then there these they this those through to too tool under until up use used using utility very via was we
    were what when where which while who why will with would you your application another""".split()
# The same thing, spelled in several ways (stems).
SAME = {"photograph": "photo", "photographi": "photo", "email": "mail", "pictur": "imag", "programm": "program"}

_WORD = re.compile(r"[a-z]+[0-9]*|[0-9]+")
_SUFFIXES = ("ing", "ers", "er", "ed", "ion", "or")


def stem(word):
    """A crude stem: plural, then one of the common suffixes, then a silent e."""
    if len(word) <= 3:
        return word
    for ending, instead in (("ies", "y"), ("sses", "ss"), ("ss", "ss"), ("us", "us"), ("is", "is"), ("s", "")):
        if word.endswith(ending):
            word = word[: -len(ending)] + instead
            break
    for ending in _SUFFIXES:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            if word[-1] == word[-2] and word[-1] not in "ls":
                word = word[:-1]
            break
    if word.endswith("e") and len(word) > 3:
        word = word[:-1]
    if word.endswith("y") and len(word) > 3:
        word = word[:-1] + "i"
    return SAME.get(word, word)


_STOP_STEMS = {stem(word) for word in STOP_WORDS}


def words(text):
    """The set of stems of a text."""
    stems = {stem(word) for word in _WORD.findall(text.lower()) if len(word) > 1}
    return stems - _STOP_STEMS


def package_words(package):
    """{word: weight} of a package."""
    weights = Counter()
    for word in words(package.name):
        weights[word] += WEIGHT_NAME
    for word in words(package.description):
        weights[word] += WEIGHT_DESCRIPTION
    tag_words = set()
    for tag in package.tags:
        facet, _, value = tag.partition("::")
        if facet == "role":
            weights[tag] = WEIGHT_ROLE
        elif facet not in FACETS_LEFT_OUT and value != "TODO":
            weights[tag] = WEIGHT_TAG
            tag_words |= words(value)
    for word in tag_words:
        weights[word] = max(weights[word], WEIGHT_TAG_WORD)
    return weights


def question_words(question):
    """{word: weight} of a question, which is one for a program."""
    weights = {word: WEIGHT_DESCRIPTION for word in words(question)}
    weights[PROGRAM] = WEIGHT_ROLE
    return weights


class Model:
    """What turns words into vectors, and the vectors of the packages (float32, one row per package, in their order)."""

    def __init__(self, terms, directions, vectors):
        self.terms = terms  # {word: row of directions}
        self.directions = directions  # Rarity times unit direction of each word.
        self.vectors = vectors

    def embed(self, question):
        """The vector of a question, or None when no word of it is known."""
        weights = question_words(question)
        if not any(word in self.terms for word in weights if word != PROGRAM):
            return None
        total = np.zeros(DIMENSION)
        for word, weight in weights.items():
            if word in self.terms:
                total += weight * self.directions[self.terms[word]]
        return _rounded(total[np.newaxis, :])[0]


def fit(packages):
    """The model of these packages."""
    from scipy.sparse import csr_matrix
    from sklearn.decomposition import TruncatedSVD
    from sklearn.preprocessing import normalize

    documents = [package_words(package) for package in packages]
    is_program = np.array([PROGRAM in package.tags for package in packages])
    if not is_program.any():
        is_program[:] = True
    in_packages = Counter()
    for document, program in zip(documents, is_program):
        if program:
            in_packages.update(document.keys())
    terms = sorted(word for word, count in in_packages.items() if count >= PACKAGES_MIN)
    terms = {word: row for row, word in enumerate(terms)}
    rarity = np.array([np.log((1 + is_program.sum()) / (1 + in_packages[word])) + 1 for word in terms])

    cells = [(row, terms[word], weight) for row, document in enumerate(documents)
             for word, weight in document.items() if word in terms]
    rows, columns, weights = zip(*cells)
    counts = csr_matrix((weights, (rows, columns)), shape=(len(documents), len(terms)))
    tfidf = normalize(counts.multiply(rarity).tocsr())

    dimensions = min(DIMENSION, len(terms) - 1, int(is_program.sum()))
    svd = TruncatedSVD(dimensions, n_iter=4, random_state=SEED).fit(tfidf[is_program])
    directions = normalize(svd.components_.T * svd.singular_values_) * rarity[:, np.newaxis]
    directions = np.pad(directions, ((0, 0), (0, DIMENSION - dimensions)))
    return Model(terms, directions.astype(np.float32), _rounded(counts @ directions))


def _rounded(vectors):
    """Unit length, then five decimals: what is written as JSON is exactly what is compared with."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unknown = lengths[:, 0] < 1e-9
    if unknown.any():  # Without a known word it stands where all directions meet: cosine has no place for zero.
        vectors[unknown] = 1.0
        lengths[unknown] = np.sqrt(vectors.shape[1])
    return np.round(vectors / lengths, 5).astype(np.float32)


def vector_json(vector):
    """A vector as JSON text, the shortest that five decimals allow."""
    return "[" + ",".join("%.5g" % round(float(x), 5) for x in vector) + "]"


def input_hash(packages):
    digest = hashlib.sha256()
    with open(__file__, "rb") as file:
        digest.update(file.read())
    digest.update(json.dumps(packages).encode())
    return digest.hexdigest()[:16]


def load_or_fit(packages, directory):
    """(model, path of the points as JSON lines, whether both were found in the cache)."""
    os.makedirs(directory, exist_ok=True)
    base = os.path.join(directory, "packages-" + input_hash(packages))
    if os.path.exists(base + ".npz") and os.path.exists(base + ".jsonl"):
        with np.load(base + ".npz") as saved:
            terms = {word: row for row, word in enumerate(saved["terms"].tolist())}
            return Model(terms, saved["directions"], saved["vectors"]), base + ".jsonl", True
    model = fit(packages)
    for old in glob.glob(os.path.join(directory, "packages-*.*")):
        os.unlink(old)
    _write_points(packages, model.vectors, base + ".jsonl")
    # Renamed into place last: its presence says that both files are whole.
    np.savez(base + ".part.npz", terms=np.array(list(model.terms)), directions=model.directions, vectors=model.vectors)
    os.rename(base + ".part.npz", base + ".npz")
    return model, base + ".jsonl", False


def _write_points(packages, vectors, path):
    """One point per line, in the form that PUT .../points and `outrigger load` take."""
    with open(path, "w", encoding="utf-8") as file:
        for package, vector in zip(packages, vectors):
            metadata = {"description": package.description, "tags": list(package.tags)}
            file.write('{"id":%s,"vector":%s,"metadata":%s}\n'
                       % (json.dumps(package.name), vector_json(vector), json.dumps(metadata)))
