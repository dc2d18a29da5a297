"""YAML layers to flags. Keys are nested or dotted; a later layer overrides an earlier one. Imports only PyYAML."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

from rpg_openrlhf.errors import Refusal


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars: only true and false are booleans (`off` is a choice of a flag), and 1e-6 is a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise Refusal(f"key {key!r} is given twice (line {node.start_mark.line + 1} on): keep one")
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def flatten(tree: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings and dotted keys, in any mix -> dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        branch = flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
        for leaf, leaf_value in branch.items():
            if leaf in flat:
                raise Refusal(f"key {leaf!r} is given twice, nested and dotted: keep one")
            flat[leaf] = leaf_value
    return flat


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`: dotted keys -> nested mappings, for printing."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *path, leaf = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = list(value) if isinstance(value, tuple) else value
    return tree


def read_layer(path: str) -> dict[str, Any]:
    """A YAML file -> dotted keys. A null resets a key to its default."""
    try:
        with open(path, encoding="utf-8") as file:
            tree = yaml.load(file, Loader=_Loader)
        if isinstance(tree, dict | None):
            return flatten(tree or {})
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"--config {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except yaml.YAMLError as error:
        raise Refusal(f"--config {path} is not YAML: {' '.join(str(error).split())}") from None
    except Refusal as error:
        raise Refusal(f"--config {path}: {error}") from None
    raise Refusal(f"--config {path} must be a mapping of flags to values; got a {type(tree).__name__}")


def merged(layers: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Layers over each other: a later one wins."""
    return {name: value for layer in layers for name, value in layer.items()}
