"""That tests/run.py notices what it is there to notice: the tests of canary.c pass as far as Criterion can see, and
each must fail its suite all the same, by the reports alone."""
import importlib.util
import os
import tempfile
import unittest

BUILD = os.environ.get("BUILD", "build")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

spec = importlib.util.spec_from_file_location("run", os.path.join(ROOT, "tests", "run.py"))
run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run)

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


if __name__ == "__main__":
    unittest.main()
