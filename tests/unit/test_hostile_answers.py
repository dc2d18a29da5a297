r"""Answers made to hang, crash, exhaust or run something: none may be right, raise or take long.

`python tests/unit/test_hostile_answers.py 1000` grades that many, prints the time and the slowest.
"""

import collections
import os
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from rpg_openrlhf.rewards.grading import grade
from rpg_openrlhf.rewards.reward_func import reward_func

GOLDS = [
    "42",
    r"\frac{1}{2}",
    r"\sqrt{2}",
    "(1,2)",
    r"\sin 2x",
    "x^2+1",
    r"\text{(C)}",
    "1,2,3",
    "4.5e33",
    r"[0,\infty)",
    r"e^{-2t}",
]


def _code(rng: random.Random) -> str:
    payload = rng.choice(
        [
            "exec(\"open('pwned_marker','w').write('x')\")",
            "__import__('os').system('touch pwned_marker')",
            "open('pwned_marker','w')",
            'eval(\'open("pwned_marker","w")\')',
            "(lambda: open('pwned_marker','w'))()",
            "print(open('/etc/passwd').read())",
            r"\input{/etc/passwd}",
            r"\write18{touch pwned_marker}",
            "().__class__.__bases__[0].__subclasses__()",
            "[open('pwned_marker','w') for _ in [1]]",
        ]
    )
    return rng.choice([payload, f"\\frac{{{payload}}}{{2}}", f"\\text{{{payload}}}", f"42 + {payload}"])


def _explosive(rng: random.Random) -> str:
    n = rng.randint(4, 10 ** rng.randint(1, 9))
    return rng.choice(
        [
            "9^{9^{9^9}}", f"9^{{9^{{{n}}}}}", f"(3^{{10^7}})! + {n}", f"{n}000000!", f"{n}!!!", f"2^{{{n}{n}}}",
            f"{n}^{{{n}}}^{{{n}}}", rf"\binom{{{n}00000}}{{{n // 2}00000}}",
            "^".join([
                "9",
            ] * rng.randint(5, 400)), "9" * 1999, f"1e{n}{n}",
            "10^{-10^{10}}", rf"\sqrt[{n}]{{{'9' * 300}}}", f"{n}^{{0.{n}}}", r"\frac{1}{" * 30 + "2" + "}" * 30,
            f"0.{'1' * 1500}e-9999", rf"\frac{{{n}!}}{{{n - 1}!}}", rf"(1+x)^{{{n}}}", "(a+b+c+d+e+f)^{24}",
            "(a+b+c+d+e+f)^{9}(a-b-c-d-e-f)^{9}" * 4, "*".join(f"(x+{k})" for k in range(150)),
            "+".join(rf"\sqrt{{{k * n + 999983}}}" for k in range(90)),
        ]
    )  # fmt: skip


def _costly(rng: random.Random) -> str:
    n = rng.randint(2, 60)
    return rng.choice(
        [
            rf"\int_0^{{{n}}} \sin(x^{{x^x}}) e^{{-x^2}} dx", rf"\sum_{{k=1}}^{{{n}0000000}} \frac{{1}}{{k^{n}}}",
            rf"\prod_{{k=1}}^{{10^9}} (1+\frac{{{n}}}{{k}})",
            rf"\lim_{{x\to 0}} \frac{{\sin^{{{n}}} x}}{{x^{{{n}}}}}",
            rf"\sin^{{{n}}} x \cos^{{{n}}} x + \tan^{{{n}}} x",
            rf"\sin(\sin(\sin({n}x)))^{{{n}}} + \cos(\cos(x))^{{{n}}}",
            "+".join(rf"\sin({k * n}x)" for k in range(20)), rf"e^{{e^{{{n} x}}}} + \ln(\ln(\ln({n})))",
            rf"\log_{{{n}}}({n}x) \arctan(\arctan(x^{{{n}}}))", rf"(\sin x+\cos x+\tan x+{n})^{{{n}}}",
            r"\det\begin{pmatrix}" + r"\\".join("&".join([str(n)] * 20) for _ in range(20)) + r"\end{pmatrix}",
            rf"\sqrt{{x+\sqrt{{x+\sqrt{{x+\sqrt{{x+{n}}}}}}}}}", rf"|\sin x|^{{{n}}}+\lfloor x^{{{n}}} \rfloor",
        ]
    )  # fmt: skip


def _large(rng: random.Random) -> str:
    n = rng.choice([60, 3_000, 100_000])
    return rng.choice(
        [
            "{" * n + "1" + "}" * n, "(" * n + "1" + ")" * n, r"\sqrt{" * n + "2" + "}" * n, r"\sqrt" * n + "2",
            "-" * n + "1", "!" * n, ",".join([
                "1",
            ] * n), r"\pm " * n + "1",
            " or ".join(["42"] * n), "=".join(["42"] * n), " " * n + "42 x", "a" * n,
            r"\cup".join([
                "(1,2)",
            ] * n), r"\{" * n + r"\}" * n, "|" * n, "^" * n,
            "_" * n, "42 " * n, "1,234" * n, "a b " * n, r"\text{" * n, r"\text{a}" * n, "x<" * n + "1",
            "1:" * n + "1", "[1,2)" * n, "1/" * n + "1", r"\frac" * n, "." * n + "1",
            r"\begin{pmatrix}" + r"1 & 2 \\" * n + r"\end{pmatrix}", "0." + r"\overline{" * n, "1_" * n,
            "$" * n + "42", "\\" * n,
        ]
    )  # fmt: skip


def _strange(rng: random.Random) -> str:
    alphabet = "0123456789+-*/^_{}()[]|!,.;:=<>\\$%&~#@?'\" \t\nabcxyzπ√∞±≤°²₂½\u0000\u200b\u202e\ud800\U0001d7d8٤"
    commands = [
        r"\frac",
        r"\sqrt",
        r"\left",
        r"\right",
        r"\pm",
        r"\text{",
        r"\cup",
        r"\in",
        r"\le",
        r"\pi",
        r"\infty",
        r"\boxed{",
    ]
    return "".join(
        rng.choice(alphabet) if rng.random() < 0.7 else rng.choice(commands) for _ in range(rng.randint(1, 60))
    )


FAMILIES = (_code, _explosive, _costly, _large, _strange)


def hostile(seed: int) -> tuple[str, str, str]:
    """Family name, response, gold answer. Values that happen to be right are avoided by a gold of another kind."""
    rng = random.Random(seed)
    family = FAMILIES[seed % len(FAMILIES)]
    answer = family(rng)
    response = rng.choice(
        ["Answer: {}", "\\boxed{{{}}}", "Answer: ${}$", "Answer: \\boxed{{{}}}", "</think>" * 50 + "\\boxed{{{}}}"]
    )
    return family.__name__, response.format(answer), rng.choice(GOLDS)


def grade_timed(seed: int) -> tuple[float, str, str, bool]:
    family, response, gold = hostile(seed)
    start = time.perf_counter()
    verdict = grade(response, gold)
    return time.perf_counter() - start, family, verdict.reason, verdict.is_correct


def test_hostile_answers_are_refused_in_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start = time.perf_counter()
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(grade_timed, range(100)))
    assert time.perf_counter() - start < 30
    assert max(seconds for seconds, *_ in results) < 20
    # `_large` and `_strange` hold texts such as "42 or 42", which are the gold answer after all.
    assert not [r for r in results if r[3] and r[1] in ("_code", "_explosive", "_costly")]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "response",
    [
        "Answer: " * 100_000, "\\boxed{" * 100_000, "\\boxed{}" * 100_000, "{" * 1_000_000, "Answer:\n" * 100_000,
        " " * 1_000_000, "Answer: " + " " * 1_000_000 + "42", "<think>" * 100_000 + "</think>",
        "\\boxed{" + "1" * 1_000_000 + "}", "$" * 200_000, "\\boxed{1} and " * 50_000, "Answer:" + "**" * 200_000,
    ],
)  # fmt: skip
def test_a_million_characters_take_no_time(response):
    start = time.perf_counter()
    grade(response, "42")
    assert time.perf_counter() - start < 5  # a tenth of a second where nothing else runs


RUNS = [  # long runs of one sign, of which patterns that try every way to split them take minutes or years
    *("Answer: 4" + sign * 19_000 + "2" for sign in (" ", "*", ".", "$", "`", "\\)")),
    *(f"\\boxed{{{text}}}" for text in ("A" + " " * 1_900 + "x", "(" + " " * 900 + "A" + " " * 900 + "x")),
    *(rule + "\nThe answer is \\boxed{41}" for rule in ("*" * 60, "**" * 1_000, "* " * 60)),
]


@pytest.mark.parametrize("response", RUNS, ids=lambda response: response[:12])
@pytest.mark.parametrize("gold", ["42", "A"])
def test_long_runs_of_one_sign_take_no_time(response, gold):
    start = time.process_time()
    assert not grade(response, gold).is_correct
    assert time.process_time() - start < 2


def test_special_tokens_at_the_end_take_no_time():
    start = time.process_time()
    query = "Question. Answer: 42" + "<eos> [EOS]" * 100_000
    assert reward_func([query], ["Question. "], ["42"])["scores"].tolist() == [1.0]
    assert time.process_time() - start < 4


def main(count: int) -> None:
    start = time.perf_counter()
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(grade_timed, range(count)))
    total = time.perf_counter() - start
    print(
        f"{count} hostile answers: {total:.1f} s",
        dict(collections.Counter((family, reason) for _, family, reason, _ in results)),
    )
    for seconds, seed in sorted(((r[0], seed) for seed, r in enumerate(results)), reverse=True)[:12]:
        print(f"{seconds:6.2f} s  {results[seed][1:]}  {hostile(seed)[1][:90]!r}  gold {hostile(seed)[2]}")
    for seed, result in enumerate(results):
        if result[3]:
            print("right:", hostile(seed)[1][:120].encode("ascii", "replace"), "gold", hostile(seed)[2])


if __name__ == "__main__":
    main(int(sys.argv[1]))
