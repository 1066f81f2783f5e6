"""Reading the index, and latent semantic analysis of it."""
import os
import tempfile
import unittest

import numpy as np

import embed
import packages
from packages import Package
from questions import QUESTIONS

INDEX = """\
Package: zile
Description: very small Emacs-subset editor
 A long text that other indexes have.
Tag: role::program, use::editing,
 works-with::text

Package: untagged
Description: no tags at all

Package: abc
Tag: special::not-yet-tagged
Description: some: colons

Package: zile
Description: the same once more
Tag: role::program
"""


class Parse(unittest.TestCase):
    def test_keeps_tagged_packages_by_name_each_once(self):
        found = packages.parse(INDEX.splitlines(keepends=True))
        self.assertEqual(found, [
            Package("abc", "some: colons", ("special::not-yet-tagged",)),
            Package("zile", "very small Emacs-subset editor", ("role::program", "use::editing", "works-with::text")),
        ])

    def test_says_what_to_do_when_there_are_none(self):
        with tempfile.NamedTemporaryFile("w") as file, self.assertRaisesRegex(packages.NoPackages, "apt-get update"):
            packages.read(file.name)


class Words(unittest.TestCase):
    def test_forms_of_a_word_have_one_stem(self):
        for forms in (("photographs", "photograph", "photography", "photo"), ("editing", "edit", "editor", "edits"),
                      ("e-mail", "mail", "mails"), ("libraries", "library"), ("programming", "program", "programs")):
            stems = [embed.words(form) - {"e"} for form in forms if form != "program"]
            self.assertTrue(all(stem == stems[0] or not stem for stem in stems), (forms, stems))

    def test_question_without_a_known_word_has_no_vector(self):
        model = embed.fit(sample())
        self.assertIsNone(model.embed("xyzzy plugh"))
        self.assertIsNotNone(model.embed("edit texts"))


def sample():
    """Packages of three kinds, enough of each for their words to count."""
    kinds = (("edit", "editor for texts of every length", "use::editing"),
             ("chess", "game of chess to play", "game::board"),
             ("net", "monitor of network traffic", "use::monitor"))
    return [Package(f"{name}{i}", f"{text} {i}", ("role::program", tag)) for name, text, tag in kinds for i in range(9)]


class Embedding(unittest.TestCase):
    def test_is_deterministic_and_one_long(self):
        a, b = embed.fit(sample()), embed.fit(sample())
        self.assertTrue((a.vectors == b.vectors).all())
        self.assertEqual(a.vectors.shape, (27, embed.DIMENSION))
        np.testing.assert_allclose(np.linalg.norm(a.vectors, axis=1), 1, atol=1e-3)

    def test_finds_the_kind_asked_for(self):
        model = embed.fit(sample())
        scores = model.vectors @ model.embed("playing chess")
        self.assertEqual(set(np.argsort(-scores)[:9]), set(range(9, 18)))

    def test_package_without_a_known_word_still_has_a_direction(self):
        model = embed.fit(sample() + [Package("qqq", "zzz", ("culture::nowhere",))])
        self.assertAlmostEqual(float(np.linalg.norm(model.vectors[-1])), 1, places=2)

    def test_cache_gives_the_same_and_points_are_the_vectors(self):
        with tempfile.TemporaryDirectory() as directory:
            made, path, cached = embed.load_or_fit(sample(), directory)
            self.assertFalse(cached)
            again, _, cached = embed.load_or_fit(sample(), directory)
            self.assertTrue(cached)
            self.assertTrue((made.vectors == again.vectors).all())
            self.assertTrue((made.embed("edit texts") == again.embed("edit texts")).all())
            with open(path, encoding="utf-8") as file:
                points = [embed.json.loads(line) for line in file]
            self.assertEqual([point["id"] for point in points], [package.name for package in sample()])
            self.assertTrue((np.array([point["vector"] for point in points], np.float32) == made.vectors).all())
            embed.load_or_fit(sample()[1:], directory)
            self.assertFalse(os.path.exists(path), "the cache of another input must go")


class RealIndex(unittest.TestCase):
    """What `make demo` checks through a cluster, without one."""

    def test_every_question_has_an_expected_package_among_its_first_ten(self):
        try:
            found = packages.read()
        except packages.NoPackages:
            found = []
        if len(found) < 20000:
            self.skipTest("this machine has no Debian index with Debtags")
        model = embed.fit(found)
        for question, expected in QUESTIONS:
            scores = model.vectors @ model.embed(question)
            best = [found[row].name for row in np.argsort(-scores)[:10]]
            self.assertTrue(set(best) & set(expected), f"{question}: {best}")


if __name__ == "__main__":
    unittest.main()
