"""The card beside an exported policy: what it is, and how to step it."""

import re
from collections.abc import Mapping, Sequence
from keyword import iskeyword
from typing import Any

from seqrl.export.ports import STATE, Port
from seqrl.export.proof import Proof
from seqrl.text import free, one_line, printable

# By which seqrl knows its own cards.
MARK = "---\nlibrary_name: seqrl\ntags:\n"
CARD = (
    MARK
    + """\
- reinforcement-learning
- recurrent
- onnx
---

# A policy trained with seqrl

`policy.onnx` computes one step: from what the environment shows, in its own units, to the action it is given. It needs
neither seqrl nor torch. `policy.safetensors` holds the weights alone.

## Step it

    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession("policy.onnx")
    outputs = [it.name for it in session.get_outputs()]
    feeds = {{name: name.removeprefix("next_") for name in outputs if name.startswith("next_")}}

    memory = {memory}

    answers = dict(zip(outputs, session.run(None, {{{given}, **memory}})))
    memory = {{into: answers[name] for name, into in feeds.items()}}      # for the next step

The first dimension of everything is a batch: one row for each environment or robot that you step at once. Each output
`next_<name>` goes into the input `<name>` of the next step.

## Clear the memory

{clear}

## Inputs

| name | type | shape | what it holds |
| --- | --- | --- | --- |
{inputs}

## Outputs

| name | type | shape | what it holds |
| --- | --- | --- | --- |
{outputs}

`action` is the likeliest action: rescaled to the bounds of the environment, clipped, and with the environment's own
numbering of choices. To draw one instead, draw from the logits, or around the mean; the model's metadata has what that
takes.

## Left to you

{left}

## How it was trained

{trained}

{evaluated}

## How it was checked

{proof}

Weights: sha256 {digest}. The model's metadata holds the environment, the spaces and the versions.
"""
)

CLEAR = """\
Set all rows of `memory` that belong to an episode to zero{first}

- when the policy is switched on,
- when an episode begins, which is after every end of one,
- after a failure: a sensor that was silent, a step that was skipped, a controller that took over,
- when the program or the robot restarts, unless you saved the memory and nothing happened meanwhile.

Memory that is not cleared makes the policy act on what another episode showed. Memory that is cleared in the middle of
an episode makes it forget what it has seen of it."""


def card(
    step_inputs: Sequence[Port],
    step_outputs: Sequence[Port],
    facts: Mapping[str, Any],
    trained: Sequence[str],
    evaluated: str,
    proof: Proof,
) -> str:
    """The text of README.md."""
    kept = [port for port in step_inputs if port.name.startswith((STATE, "previous_action"))]
    others = [port for port in step_inputs if port not in kept]
    zeros = [f'"{port.name}": np.zeros({_shape(port, 1)}, "{port.dtype}")' for port in kept]
    is_told = any(port.name == "first" for port in step_inputs)
    left = list(facts["left_to_you"]) or ["Nothing: the policy sees what the environment itself shows."]
    text = CARD.format(
        memory="{" + ", ".join(zeros) + "}  # the memory of one episode that begins",
        given=", ".join(f'"{name}": {variable}' for name, variable in _variables(others).items()),
        clear=_clear(kept, is_told),
        inputs="\n".join(map(_row, step_inputs)),
        outputs="\n".join(map(_row, step_outputs)),
        left=_list(left),
        trained=_list(_lines(facts, trained)),
        evaluated=evaluated,
        proof=sentence(proof),
        digest=facts["weights_sha256"],
    )
    return printable(text)


def _clear(kept: Sequence[Port], is_told: bool) -> str:
    if kept:
        return CLEAR.format(first=", and `first` to 1 for one step," if is_told else ",")
    told = " `first` is 1 at the first step of an episode, and 0 later." if is_told else ""
    return f"This policy has no memory: there is nothing to clear.{told}"


def sentence(proof: Proof) -> str:
    """What a proof has shown."""
    largest, name = proof.largest
    ties = f"; {proof.ties:,} choices between equally likely alternatives fell otherwise" if proof.ties else ""
    return (
        f"{proof.steps:,} steps of the environment beside the policy in torch, with {proof.begun:,} episodes begun and "
        f"memory cleared {proof.cleared:,} times within one: same actions{ties}; largest difference {largest:.1e}, of "
        f"{name}."
    )


def _lines(facts: Mapping[str, Any], trained: Sequence[str]) -> list[str]:
    environment = facts["environment"]
    name = str(environment.get("id") or environment.get("_target_")).replace("`", "'")
    done = f"{int(facts['iterations']):,} iterations, {int(facts['env_steps']):,} environment steps"
    return [f"environment: `{name}`", f"trained for {done}", *trained]


def _list(lines: Sequence[str]) -> str:
    """A point for each line, whatever stands in it: a run may be anybody's."""
    return "\n".join(f"- {one_line(it)}" for it in lines)


def _row(port: Port) -> str:
    about = port.about.replace("|", "\\|").replace("\n", " ")
    return f"| `{port.name}` | {port.dtype} | [batch{''.join(f', {n}' for n in port.shape)}] | {about} |"


def _shape(port: Port, batch_size: int) -> str:
    return str((batch_size, *port.shape))


def _variables(ports: Sequence[Port]) -> dict[str, str]:
    """A variable for each input, by its name: the last word of it, or all if another has the same, or it is none."""
    last = [port.name.rpartition(".")[2] for port in ports]
    variables: dict[str, str] = {}
    for port, word in zip(ports, last, strict=True):
        if not word.isidentifier() or iskeyword(word) or last.count(word) > 1:
            word = re.sub(r"\W", "_", port.name)
        variables[port.name] = free(word, variables.values(), "{}_{}")
    return variables
