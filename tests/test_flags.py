import re
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "instructrec_jax"
BINARIES = ("build", "train", "decode", "evaluate", "convert")
# Where the flags of a binary are that does not define them itself.
ELSEWHERE = {"decode": "decoding/command"}


def test_binaries_that_tests_import_have_flags_of_different_names():
    # One process runs the tests of many files, and absl refuses a name that it has seen.
    names = "|".join(BINARIES)
    imports = re.compile(rf"^from instructrec_jax(?:\.({names}) import| import ({names})\b)", re.M)
    imported = {
        first or second
        for file in TESTS.rglob("*.py")
        for first, second in imports.findall(file.read_text(encoding="utf-8"))
    }
    assert imported
    defined = Counter(
        flag
        for binary in imported
        for flag in re.findall(
            r"flags\.DEFINE_\w+\(\s*\"(\w+)\"",
            (PACKAGE / f"{ELSEWHERE.get(binary, binary)}.py").read_text("utf-8"),
        )
    )
    assert len(defined) > 5
    twice = [flag for flag, count in defined.items() if count > 1]
    assert not twice, f"{sorted(imported)} share {twice}: run one of them as a program"
