"""Every flag and layer named in configs, scripts, README and docs is one that the real parser knows."""

import re
from pathlib import Path

import pytest

from rpg_openrlhf.settings import own_flags
from rpg_openrlhf.settings import parser as flags

ROOT = Path(__file__).resolve().parents[2]
FLAG = re.compile(r"(?<![\w-])--([a-z_]+(?:\.[a-z_0-9]+)+)")
LAYER = re.compile(r"configs/[\w+/.-]+\.yaml")
TEXTS = [
    *sorted(ROOT.glob("configs/**/*.yaml")),
    *sorted(ROOT.glob("examples/**/*.sh")),
    *sorted(ROOT.glob("docs/**/*.md")),
    *[p for p in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Makefile") if p.exists()],
    *sorted(ROOT.glob("rpg_openrlhf/**/*.py")),
]


@pytest.fixture(scope="module")
def known():
    return set(flags.by_flag(flags.build_parser()))


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_flags_named_in_texts_exist(path, known):
    text = path.read_text(encoding="utf-8")
    # `--algo.kl.*` names a family of flags.
    families = {name.rsplit(".", 1)[0] for name in known}
    unknown = {
        m[1]
        for m in FLAG.finditer(text)
        if m[1] not in known
        and not (text[m.end() :].startswith((".*", "_*", "*")) and _is_family(m[1], families, known))
    }
    assert not unknown, f"{path.relative_to(ROOT)} names flags that do not parse: {sorted(unknown)}"


def _is_family(prefix, families, known):
    return prefix in families or any(name.startswith(prefix) for name in known)


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_layers_named_in_texts_exist(path):
    missing = [name for name in LAYER.findall(path.read_text(encoding="utf-8")) if not (ROOT / name).exists()]
    assert not missing, f"{path.relative_to(ROOT)} names layers that do not exist: {missing}"


def test_our_flags_are_all_documented():
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    missing = [flag.name for flag in own_flags.FLAGS if f"`--{flag.name}`" not in text]
    assert not missing


def test_our_flags_say_what_no_upstream_flag_can():
    from rpg_openrlhf.settings import upstream

    theirs = set(flags.by_flag(upstream.build_parser()))
    assert not theirs & {flag.name for flag in own_flags.FLAGS}
    # 7 are the reference's schedule: upstream's reference never moves. 9 are of a run that survives: upstream's loads
    # what `latest` names, watches nothing and starts nothing again.
    assert len(own_flags.FLAGS) <= 33, "a new flag must say what no upstream flag can"
