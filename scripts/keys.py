"""Write docs/keys.md, the list of all keys, from the schemas: `python scripts/keys.py`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

from seqrl.config.resolvers import built_in_tasks
from seqrl.config.schema import (
    SCHEMAS,
    THREADS,
    AlgorithmConfig,
    EvaluationConfig,
    InsightConfig,
    ReinforceConfig,
    RunnerConfig,
    default_of,
    keys_of,
)

PAGE = Path(__file__).resolve().parent.parent / "docs" / "keys.md"
HEAD = f"""# Keys

Every key of the configuration, written from `seqrl/config/schema.py` by `python scripts/keys.py`. Set one on the
command line, `key=value`. `python -m seqrl.train --cfg job` shows the values of a run.

Built-in tasks: {", ".join(built_in_tasks())}.
"""
# In the order of the page: the prefix of each group's keys.
PREFIXES = {
    "run": "",
    "sequence_learning": "sequence_learning.",
    "network": "network.",
    "ppo": "algorithm.",
    "reinforce": "algorithm.",
    "device": "device.",
    "wandb": "logger.wandb.",
    "mlflow": "logger.mlflow.",
}


def page() -> str:
    names = [*PREFIXES, *(name for name in SCHEMAS if name not in PREFIXES)]
    sections = [section(SCHEMAS[name], PREFIXES.get(name, "env.")) for name in names]
    sections.insert(1, section(EvaluationConfig, "evaluation."))
    sections.insert(2, section(InsightConfig, "insight."))
    sections.insert(3, section(RunnerConfig, "runner."))
    return "\n".join([HEAD, *sections])


def section(schema: type[Any], prefix: str) -> str:
    """A table of the keys of one schema; without those that follow another key."""
    title = (schema.__doc__ or "").splitlines()[0].rstrip(".")
    lines = [f"## {title}", "", "| key | type | default | allowed | meaning |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*lines, *rows(schema, prefix), ""])


def rows(schema: type[Any], prefix: str) -> Iterator[str]:
    # What all algorithms share is listed with the first of them.
    known = keys_of(AlgorithmConfig) if schema is ReinforceConfig else {}
    for name, field in keys_of(schema).items():
        about, default = field.metadata, default_of(field)
        # One without a meaning of its own follows another key.
        if not about or name in known or not about["help"]:
            continue
        shown = "" if default == "???" or str(default).startswith("${") else f"`{written(default)}`"
        columns = [f"`{prefix}{name}`", kind(schema, name), shown, allowed(about), about["help"]]
        yield f"| {' | '.join(columns)} |".replace("<", "&lt;")


def allowed(about: Mapping[str, Any]) -> str:
    if about["rule"] is THREADS:
        return "1 to the number of processors"
    rule = [about["rule"].meaning] if about["rule"] else []
    return "; ".join([*rule, ", ".join(f"`{str(it).lower()}`" for it in [*about["choices"], *about["names"]])]).strip(
        "; "
    )


def kind(schema: type[Any], name: str) -> str:
    hint = get_type_hints(schema)[name]
    text = hint.__name__ if isinstance(hint, type) and not getattr(hint, "__args__", None) else str(hint)
    return text.replace(" | None", " or null").replace("typing.Any", "any").replace("Any", "any")


def written(value: Any) -> str:
    """A value as YAML has it."""
    if isinstance(value, list):
        return f"[{','.join(map(written, value))}]"
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


if __name__ == "__main__":
    PAGE.write_text(page())
