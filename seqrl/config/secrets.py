"""Secrets: which values of a configuration are one, and how it is shown and saved without them."""

import contextlib
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

from omegaconf import BooleanNode, DictConfig, FloatNode, IntegerNode, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from seqrl.text import environment_read, named_secrets, names_secret, plain_name

# http://me:hush@host, what git takes, https://hush@host, and what needs no scheme, me:hush@host.org or me:hush@host:80.
USERINFO = re.compile(
    r"://[^/\s@:]*:[^/\s@]+@|\bhttps?://[^/\s@]+@|"
    r"^[^/\s@:]+:[^/\s@:]+@(?=([\w-]+\.)+[a-z]{2,}(:\d+)?(/|$)|[\w.-]+:\d+(/|$))",
    re.IGNORECASE,
)
# Of what a text calls by the name of a secret; shorter ones, and numbers, are often none.
SHORTEST = 6
# A command line without any of these sets no secret, and need not be composed to look for one.
SECRET_SOMEWHERE = re.compile(r"pass|pwd|secret|token|key|credential|authorization|cookie|:[^\s]*@", re.IGNORECASE)
# What a variable gives, in a text whose rest is typed out; and what beside it may be a secret, unlike `Bearer`.
FROM_VARIABLE = "\0"
TELLING = re.compile(r"(?=[a-z]*\d)[a-z\d]{7,}|[a-z]{20,}", re.IGNORECASE)
# One key in another's value: `${env.id}`, `${.id}` of the same section, `${env.kwargs.sizes[0]}`.
REFERENCE = re.compile(r"\$\{\s*(\.*[A-Za-z_][\w.\[\]]*)\s*\}")
Container = DictConfig | ListConfig
# Nodes of seqrl's own keys; those that are added take any value.
NUMBERS = (IntegerNode, FloatNode, BooleanNode)


def secrets(cfg: DictConfig) -> Iterator[str]:
    """Complaints about what looks like a secret and would be saved with the run.

    Only what comes from a variable passes, and what is empty or a switch.
    """
    for key in map(str, cfg):
        if key != "hydra":
            yield from _secrets(cfg, key, key)
    # Variables that Hydra sets: the rest of its section holds none.
    if (job := OmegaConf.select(cfg, "hydra.job")) is not None and "env_set" in job:
        yield from _secrets(job, "env_set", "hydra.job.env_set")


def _secrets(node: Any, key: Any, where: str) -> Iterator[str]:
    child = node._get_node(key)
    name = plain_name(key)
    is_secret = isinstance(key, str) and names_secret(key)
    typed = [*_typed(child)]
    if is_secret and any(_tells(it) and not (name.endswith("tokens") and isinstance(it, int | float)) for it in typed):
        yield (
            f"{where}: looks like a secret, and would be saved with the run. Export it as a variable, and write "
            f"'{where}=${{oc.env:{name.upper().replace('PWD', 'PASSWORD')}}}'."
        )
    elif isinstance(child, DictConfig | ListConfig) and not child._is_none() and not child._is_interpolation():
        for inner in child if isinstance(child, DictConfig) else range(len(child)):
            place = f"{where}.{inner!s}" if isinstance(child, DictConfig) else f"{where}[{inner!s}]"
            yield from _secrets(child, inner, place)
    elif any(isinstance(it, str) and _holds_secret(it) for it in typed):
        yield (
            f"{where}: holds a password or a key, and would be saved with the run. Export all of it as a variable, and "
            f"write '{where}=${{oc.env:ADDRESS}}'."
        )


def _tells(typed: Any) -> bool:
    """Whether what is typed out, under the name of a secret or as the password of an address, may be one.

    Beside a variable, or as its default, `Bearer ` and `sandbox` are none.
    """
    return not isinstance(typed, str) or FROM_VARIABLE not in typed or bool(TELLING.search(typed))


def _holds_secret(typed: str) -> bool:
    """Whether a text has an address with a password or a key, or one that it calls so, `Pwd=…`, that is typed out."""
    found = (it[0].rpartition("://")[2].rstrip("@") for it in USERINFO.finditer(typed))
    # A variable elsewhere in the address makes a password no less typed.
    inside = ((it.partition(":")[2] or it) + FROM_VARIABLE * (FROM_VARIABLE in it) for it in found)
    # A colon stands in sentences, too.
    named = (it for it in named_secrets(typed.replace(":", ";")) if len(it) >= SHORTEST and not it.isdecimal())
    return any(map(_tells, chain(inside, named)))


def _typed(node: Any) -> Iterator[Any]:
    """What is typed out in a value, and not taken from a variable: numbers, and texts that are not empty.

    FROM_VARIABLE stands in a text for what a variable gives.
    """
    if node is None or node._is_none() or node._is_missing():
        return
    if not node._is_interpolation() and isinstance(node, DictConfig | ListConfig):
        children: Any = node
        for key in children if isinstance(node, DictConfig) else range(len(node)):
            yield from _typed(children._get_node(key))
        return
    value = node._value()
    if node._is_interpolation():
        try:
            if "oc.env" in (written := _as_written(node, node._get_parent())):
                value = _typed_beside(written)
        except (OmegaConfBaseException, RecursionError):
            # Whoever resolves it says what is wrong with it.
            return
    is_empty = isinstance(value, str | bytes) and not value
    if not (is_empty or isinstance(value, bool)):
        yield value


def _typed_beside(text: str) -> str:
    """A text with interpolations, each replaced by what is typed out in it, such as a default, and FROM_VARIABLE."""
    typed, depth, began = "", 0, 0
    for at in range(len(text)):
        if text.startswith("${", at):
            began = began if depth else at + 2
            depth += 1
        elif text[at] == "}" and depth:
            depth -= 1
            if not depth:
                name, _, arguments = text[began:at].partition(":")
                typed += _typed_beside(arguments.partition(",")[2] if name.strip() == "oc.env" else arguments)
                typed += FROM_VARIABLE
        elif not depth:
            typed += text[at]
    return typed


def variables(cfg: DictConfig) -> tuple[set[str], set[str]]:
    """Variables that give numbers to seqrl's own keys, such as the seed, and nothing to any other; and all the others.

    The first hold no secrets.
    """
    numbers: set[str] = set()
    others: set[str] = set()
    todo: list[Any] = [cfg]
    while todo:
        section = todo.pop()
        for key in section if isinstance(section, DictConfig) else range(len(section)):
            child = section._get_node(key)
            if child is None or not child._is_interpolation():
                todo += [child] if OmegaConf.is_config(child) and not child._is_none() else []
                continue
            with environment_read() as names, contextlib.suppress(OmegaConfBaseException):
                _resolved(section, key)
                place = section
                while not isinstance(child, NUMBERS) and (found := _referred(child, place)):
                    child, place, _ = found
            (numbers if isinstance(child, NUMBERS) else others).update(names)
    return numbers - others, others


def public(cfg: DictConfig) -> DictConfig:
    """A configuration resolved but for what comes from the system's environment, which keeps its words.

    It plays the same: what decodes a variable, or gives it a default, stays as it was written.
    """
    named = OmegaConf.create(_public(cfg))
    assert isinstance(named, DictConfig)
    return named


def _public(node: Any) -> Any:
    if isinstance(node, DictConfig):
        return {key: _public_child(node, key) for key in node}
    if isinstance(node, ListConfig):
        return [_public_child(node, index) for index in range(len(node))]
    return node


def _public_child(node: Container, key: Any) -> Any:
    child = node._get_node(key)
    if child is None or not child._is_interpolation():  # type: ignore[union-attr]
        return _public(node[key])
    with environment_read() as names:
        value = _resolved(node, key)
    # A number of seqrl's own, such as the seed, tells nothing and is needed to read the run.
    if not names or isinstance(child, NUMBERS):
        return value
    # What is nothing but another key has its kind, too.
    found = _referred(child, node)
    return _public_child(*found[1:]) if found else _as_written(child, node)


def _resolved(node: Container, key: Any) -> Any:
    """What an interpolation stands for, in plain data."""
    value = node[key]
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _referred(node: Any, section: Any) -> tuple[Any, Any, Any] | None:
    """The node that one in a section refers to, if it is nothing else, with its own section and its key there."""
    reference = REFERENCE.fullmatch(str(node._value()))
    return _found(reference[1], section) if reference else None


def _found(path: str, section: Any) -> tuple[Any, Any, Any] | None:
    """The node that `path` leads to from a section, with its own section and its key there; None if there is none."""
    root, path = section._resolve_key_and_root(path) if path.startswith(".") else (section._get_root(), path)
    place, key, _ = root._select_impl(path, throw_on_missing=False, throw_on_resolution_failure=False)
    if place is None:
        return None
    if isinstance(place, ListConfig):
        if not key.isdecimal():
            return None
        key = int(key)
    node = place._get_node(key)
    return None if node is None else (node, place, key)


def _as_written(node: Any, section: Any) -> str:
    """An interpolation with the words of those that it refers to in their place: alone it still means the same.

    section   where it stands
    """

    def written(reference: re.Match[str]) -> str:
        if (found := _found(reference[1], section)) is None:
            return reference[0]
        child, place, key = found
        if child._is_interpolation() and not isinstance(child, NUMBERS):
            return _as_written(child, place)
        return str(place[key])

    return REFERENCE.sub(written, str(node._value()))
