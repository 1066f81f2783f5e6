"""That tests/run.py notices what it is there to notice: the tests of canary.c pass as far as Criterion can see, and
each must fail its suite all the same, by the reports alone."""
import contextlib
import importlib.util
import io
import os
import subprocess
import tempfile
import unittest
from unittest import mock

BUILD = os.environ.get("BUILD", "build")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))



def script(name):
    """tests/NAME.py as a module."""
    spec = importlib.util.spec_from_file_location(name, os.path.join(ROOT, "tests", f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


run = script("run")
coverage = script("coverage")

PLAIN = "$BUILD/bin/canary --filter"
SANITIZED = "$BUILD/bin-sanitize/canary --filter"
VALGRIND = "$VALGRIND $BUILD/bin/canary -j1 --timeout 60 --filter"


class Canary(unittest.TestCase):
    def suite(self, command, budget=120):
        """(status, output with its reports) of a command run as a suite."""
        with tempfile.TemporaryDirectory() as logs:
            status, _ = run.run_suite("canary", budget, command, logs, dict(os.environ, BUILD=BUILD))
            with open(os.path.join(logs, "canary.log"), encoding="utf-8", errors="replace") as log:
                return status, log.read()

    def assert_found(self, command, *words):
        status, output = self.suite(command)
        self.assertEqual(status, "failed", output)
        for word in words:
            self.assertIn(word, output)

    def test_what_is_clean_passes(self):
        for program in (PLAIN, SANITIZED, VALGRIND):
            status, output = self.suite(f"{program} 'clean/*'")
            self.assertEqual(status, "passed", output)

    def test_criterion_alone_notices_nothing(self):
        for name in ("leak", "undefined", "uninitialised"):
            status, output = self.suite(f"{PLAIN} '{name}/*'")
            self.assertEqual(status, "passed", output)

    def test_a_leak_is_found_by_asan(self):
        self.assert_found(f"{SANITIZED} 'leak/*'", "LeakSanitizer", "1000 byte(s)")

    def test_a_leak_is_found_by_valgrind(self):
        self.assert_found(f"{VALGRIND} 'leak/*'", "1,000 bytes in 1 blocks are definitely lost")

    def test_undefined_behaviour_is_found_by_ubsan(self):
        self.assert_found(f"{SANITIZED} 'undefined/*'", "runtime error: signed integer overflow")

    def test_uninitialised_memory_is_found_by_valgrind(self):
        self.assert_found(f"{VALGRIND} 'uninitialised/*'", "depends on uninitialised value")

    def test_a_report_fails_a_suite_whose_command_succeeds(self):
        self.assert_found(f"{SANITIZED} 'leak/*'; exit 0", "LeakSanitizer")
        self.assert_found(f"{VALGRIND} 'uninitialised/*'; exit 0", "uninitialised value")

    def test_only_what_criterion_itself_took_is_overlooked(self):
        theirs = (
            "==7==ERROR: LeakSanitizer: detected memory leaks\n\nDirect leak of 96 byte(s) in 2 object(s) allocated from:\n"
            "    #0 0x7f01 in __interceptor_calloc asan_malloc_linux.cpp:77\n    #1 0x7f02  (/lib/libcriterion.so.3+0x1a332)\n\n"
        )
        ours = (
            "Direct leak of 8 byte(s) in 1 object(s) allocated from:\n"
            "    #0 0x7f01 in __interceptor_malloc asan_malloc_linux.cpp:69\n    #1 0x5503 in lose tests/canary/canary.c:21\n"
            "    #2 0x7f02 in criterion_internal_test_main (/lib/libcriterion.so.3+0xe6de)\n"
        )
        other = "==7==ERROR: AddressSanitizer: heap-use-after-free on address 0x6020\n"
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "report")
            for text, expected in ((theirs, True), (theirs + ours, False), (theirs + other, False), (other, False)):
                with open(path, "w", encoding="utf-8") as report:
                    report.write(text)
                self.assertEqual(run.is_criterions_own(path), expected, text)

    def test_each_analyzer_objects(self):
        for target, word in (("cppcheck", "uninitvar"), ("analyze", "use-after-free"), ("tidy", "wrong.c")):
            status, output = self.suite(f"make -s {target} BUILD=$BUILD SRC_ALL=tests/canary/wrong/wrong.c")
            self.assertEqual(status, "failed", f"{target}: {output}")
            self.assertIn(word, output, target)

    def test_a_filter_that_matches_nothing_fails(self):
        self.assert_found(f"{PLAIN} 'claen/*'", "no test ran")

    def test_a_suite_over_its_budget_fails(self):
        status, _ = self.suite("read -r never < <(tail -f /dev/null)", budget=1)
        self.assertEqual(status, "over budget")

    def test_a_fuzz_target_that_fails_fails_the_replay(self):
        with tempfile.TemporaryDirectory() as corpora:
            corpus = os.path.join(corpora, "canary")
            os.mkdir(corpus)
            command = f"make -s fuzz-replay BUILD=$BUILD FUZZ_DIR=tests/canary/fuzz FUZZ_CORPUS={corpora}"
            self.assert_found(command)  # A target without a corpus would check nothing.
            for text, expected in (("fine", None), ("overread", "heap-buffer-overflow"), ("claims", "does not hold: ")):
                with open(os.path.join(corpus, "input"), "w", encoding="utf-8") as file:
                    file.write(text)
                if expected is None:
                    self.assertEqual(self.suite(command)[0], "passed")
                else:
                    self.assert_found(command, expected)

    def test_a_program_that_is_not_hardened_fails(self):
        hard = "-O2 -fPIE -pie -fstack-protector-all -D_FORTIFY_SOURCE=2 -Wl,-z,relro,-z,now"
        weak = {  # what takes one protection away, and what must be said of it
            "": None,
            "-no-pie -fno-pie": "not position independent",
            "-Wl,-z,norelro": "RELRO",
            "-Wl,-z,lazy": "bound late",
            "-Wl,-z,execstack": "the stack is executable",
            "-fno-stack-protector": "no stack protector",
            "-U_FORTIFY_SOURCE": "no _FORTIFY_SOURCE",
            "-Wl,-rpath,/nowhere": "a path of its own",
        }
        with tempfile.TemporaryDirectory() as directory:
            source, program = os.path.join(directory, "main.c"), os.path.join(directory, "main")
            with open(source, "w", encoding="utf-8") as file:
                file.write("#include <stdio.h>\nint main(int argc, char **argv) {\n char text[50];\n"
                           "snprintf(text, (size_t)argc, \"%s\", argv[0]);\n return puts(text); }\n")
            for flags, words in weak.items():
                subprocess.run(f"gcc {hard} {flags} -o {program} {source}", shell=True, check=True)
                status, output = self.suite(f"tests/hardening.sh {program}")
                self.assertEqual(status, "passed" if words is None else "failed", f"{flags}: {output}")
                self.assertIn(words or "lacks nothing", output, flags)

    def outcome(self, command, ci, skips):
        """(exit code, output) of tests/run.py with this as its only suite."""
        said = io.StringIO()
        with tempfile.TemporaryDirectory() as build, contextlib.redirect_stdout(said), \
                mock.patch.object(run, "SUITES", [("planted", "test", 20, command)]), \
                mock.patch.object(run, "allowed_skips", lambda: skips), \
                mock.patch.dict(os.environ, {"CI": "true"} if ci else {"CI": ""}), \
                mock.patch("sys.argv", ["run.py", "--build", build]), self.assertRaises(SystemExit) as ended:
            run.main()
        return ended.exception.code, said.getvalue()

    def test_a_skip_under_ci_fails_unless_it_is_listed(self):
        for ci, skips, code, words in (
            (False, {}, 0, "1 skipped"),
            (True, {}, 1, "1 failed, 0 skipped"),
            (True, {"planted": "no network"}, 0, "1 skipped"),
            (True, {"another": "no network"}, 1, "a skip under CI that tests/skips.txt does not name"),
        ):
            self.assertEqual(self.outcome("exit 77", ci, skips)[0], code, f"CI {ci}, listed {skips}")
            self.assertIn(words, self.outcome("exit 77", ci, skips)[1])

    def test_one_failed_suite_fails_the_run(self):
        self.assertEqual(self.outcome("exit 0", True, {})[0], 0)
        self.assertEqual(self.outcome("exit 3", False, {})[0], 1)

    def test_what_the_tests_do_not_reach_fails_the_coverage(self):
        source = "int half(int x);\nint half(int x)\n{\n    if (x > 0) {\n        return 1;\n    }\n    return 0;\n}\n"
        with tempfile.TemporaryDirectory() as root:
            folder, objects = os.path.join(root, "sidecar", "log"), os.path.join(root, "build", "coverage", "obj")
            for path in (folder, objects):
                os.makedirs(path)
            for name, text in (("half.c", source), ("main.c", "int half(int x);\nint main(int n, char **v)\n{\n"
                                                     "    (void)v;\n    return n > 1 ? half(0) + half(1) - 1 : half(1) - 1;\n}\n")):
                with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                    file.write(text)
                subprocess.run(["gcc", "--coverage", "-c", f"sidecar/log/{name}", "-o", f"build/coverage/obj/{name[0]}.o"],
                               cwd=root, check=True)
            subprocess.run("gcc --coverage -o main build/coverage/obj/*.o", cwd=root, shell=True, check=True)
            for arguments, code in (([], "1 complaints"), (["both"], None)):
                subprocess.run([os.path.join(root, "main"), *arguments], check=True)
                said, ended = io.StringIO(), None
                with contextlib.redirect_stdout(said), mock.patch.object(coverage, "ROOT", root), \
                        mock.patch.object(coverage, "EXTRA", ["sidecar/log/*.c"]), \
                        mock.patch("sys.argv", ["coverage.py", "--no-run"]):
                    try:
                        coverage.main()
                    except SystemExit as left:
                        ended = str(left.code)
                self.assertTrue((ended or "").startswith(code or ""), f"{ended}\n{said.getvalue()}")
                self.assertEqual(ended is None, code is None, said.getvalue())
                self.assertEqual("sidecar/log/half.c: 75.0 %, never reached: 7" in said.getvalue(), code is not None,
                                 said.getvalue())

    def test_a_parser_on_no_list_fails_the_coverage(self):
        parser = "int word_parse(const char *text, int *out)\n{\n}\n"
        self.assertIn("word_parse", coverage.unlisted("sidecar/api/word.c", parser, set()))
        self.assertIn("unpack_all", coverage.unlisted("sidecar/api/word.c", "static bool unpack_all(void)\n", set()))
        self.assertIsNone(coverage.unlisted("sidecar/api/word.c", parser, {"sidecar/api/word.c"}))
        self.assertIsNone(coverage.unlisted("sidecar/api/word.c", "    rv = word_parse(text, &out);\n", set()))
        wrong = []
        self.assertEqual(coverage.covered_by_fuzzing("fuzz_word.c", "/* Words.\n * Covers: sidecar/a/b.c */\n", wrong),
                         ["sidecar/a/b.c"])
        self.assertEqual(wrong, [])
        coverage.covered_by_fuzzing("fuzz_word.c", "/* Words. */\n", wrong)
        with mock.patch.object(coverage, "EXTRA", ["sidecar/gone.c"]):
            coverage.strict_files(["sidecar/log/journal.c"], wrong)
        self.assertIn("fuzz_word.c names no files", wrong[0])
        self.assertIn("sidecar/gone.c: no such file", wrong[1])


if __name__ == "__main__":
    unittest.main()
