"""An independent reference in float64, one environment and one step at a time, from the formulas alone.

It calls none of the code it is compared with, and reads only parameters and recorded numbers.
"""

import math

import torch

from seqrl.networks import GRU, LSTM, GTrXL, Matrix, MinGRU, Stack


def lstm_step(block, x, hidden, cell):
    """Hochreiter & Schmidhuber's cell with a forget gate: x [I], hidden [H], cell [H]."""
    gates = block.weight_input @ x + block.weight_hidden @ hidden + block.bias
    i, f, g, o = gates.chunk(4)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    hidden = torch.sigmoid(o) * torch.tanh(cell)
    return hidden, hidden, cell


def gru_step(block, x, hidden):
    """Cho et al.'s cell, with a bias of what the reset gate reads: x [I], hidden [H]."""
    size = len(hidden)
    inputs, memory = block.weight_input @ x, block.weight_hidden @ hidden + block.bias
    r = torch.sigmoid(inputs[:size] + memory[:size])
    z = torch.sigmoid(inputs[size : 2 * size] + memory[size : 2 * size])
    n = torch.tanh(inputs[2 * size :] + r * memory[2 * size :])
    hidden = (1 - z) * n + z * hidden
    return hidden, hidden


def mingru_step(block, x, hidden):
    """Feng et al.'s cell with a highway: x [I], hidden [H]."""
    z, g, written = (block.weight @ x + block.bias).chunk(3)
    z, g = torch.sigmoid(z), torch.sigmoid(g)
    hidden = (1 - z) * hidden + z * written
    return g * hidden + (1 - g) * x, hidden


def matrix_step(block, x, matrix):
    """Gated linear attention with a skip, head by head: x [H], matrix [heads, D, D]."""
    q, k, v, gate = (block.weight @ x).chunk(4)
    f = torch.sigmoid(block.forget.weight @ x + block.forget.bias)
    i = torch.sigmoid(block.write.weight @ x + block.write.bias)
    width, after, answers = matrix.shape[-1], [], []
    for head, c in enumerate(matrix):
        rows = slice(head * width, (head + 1) * width)
        after.append(f[head] * c + i[head] * torch.outer(v[rows], k[rows] / math.sqrt(width)))
        answer = after[-1] @ q[rows]
        answers.append(answer / torch.sqrt((answer**2).mean() + 1e-5))
    opened = torch.sigmoid(gate + block.gate_bias) * torch.cat(answers)
    return x + block.output.weight @ opened + block.output.bias, torch.stack(after)


# How each cell goes on: its output and the leaves after it.
STEPS = {
    LSTM: (lstm_step, ("hidden", "cell")),
    GRU: (gru_step, ("hidden",)),
    MinGRU: (mingru_step, ("hidden",)),
    Matrix: (matrix_step, ("matrix",)),
}


def normed(norm, x):
    return (x - x.mean()) / torch.sqrt(x.var(correction=0) + norm.eps) * norm.weight + norm.bias


def gated(gate, x, y):
    kept = torch.sigmoid(gate.weight @ x + gate.bias)
    return kept * x + (1 - kept) * torch.relu(y)


def transformer_step(block, x, inputs):
    """A layer of Parisotto et al.'s, of its input [H] and those before it, all normed; the list grows."""
    inputs.append(normed(block.norms[0], x))
    # What attention adds to the last of its inputs.
    u = gated(block.gates[0], x, attend(block.attention, inputs) - inputs[-1])
    inner = torch.relu(block.inner.weight @ normed(block.norms[1], u) + block.inner.bias)
    return gated(block.gates[1], u, block.outer.weight @ inner + block.outer.bias)


def cell_step(block, x, leaves):
    """Output [H] and leaves after one step of a cell or a stack of them, of its leaves before."""
    if isinstance(block, Stack):
        after = {}
        for layer, (cell, norm, gate) in enumerate(zip(block.cells, block.norms, block.gates, strict=True)):
            read = normed(norm, x)
            y, left = cell_step(cell, read, {name: leaves[f"{layer}.{name}"] for name in STEPS[type(cell)][1]})
            x = x + gate * y
            after |= {f"{layer}.{name}": leaf for name, leaf in left.items()}
        return x, after
    step, names = STEPS[type(block)]
    y, *after = step(block, x, *(leaves[name] for name in names))
    return y, dict(zip(names, after, strict=True))


def attend(block, inputs):
    """Output at the last of `inputs`, a list of [H], attending to it and the `window` before it."""
    seen = inputs[-(block.window + 1) :]
    width = block.output_size // block.heads
    mixed = []
    for head in range(block.heads):
        rows = slice(head * width, (head + 1) * width)
        query = block.query.weight[rows] @ seen[-1]
        scores = [
            query @ (block.key.weight[rows] @ x) / math.sqrt(width) + block.distance_bias[head, len(seen) - 1 - place]
            for place, x in enumerate(seen)
        ]
        largest = max(score.item() for score in scores)
        weights = [torch.exp(score - largest) for score in scores]
        total = sum(weights)
        mixed.append(sum(w / total * (block.value.weight[rows] @ x) for w, x in zip(weights, seen, strict=True)))
    return seen[-1] + block.output.weight @ torch.cat(mixed) + block.output.bias


class Memory:
    """The memory of one trunk of a network within one episode."""

    def __init__(self, trunk, stored):
        """`stored`: leaves [...] of the state before the next step, or {} at an episode's start."""
        self.trunk, self.cell = trunk, {}
        self.name = next((name for name in ("lstm", "cell") if name in trunk.memory), None)
        if self.name and isinstance(trunk.memory[self.name], GTrXL):
            self.cell = self.past("cell", stored)
        elif self.name:
            zeros = {name: leaf[0].double() for name, leaf in trunk.memory[self.name].initial_state(1).items()}
            self.cell = {name: stored.get(f"{self.name}.{name}", leaf) for name, leaf in zeros.items()}
        self.inputs = self.past("attention", stored)

    def past(self, name, stored):
        """Inputs that a block of this name has seen."""
        inputs, real = stored.get(f"{name}.inputs", []), stored.get(f"{name}.real", [])
        return [x for x, is_real in zip(inputs, real, strict=True) if is_real]

    def cut(self):
        """Stop gradients here."""
        if isinstance(self.cell, list):
            self.cell = [x.detach() for x in self.cell]
        else:
            self.cell = {name: leaf.detach() for name, leaf in self.cell.items()}
        self.inputs = [x.detach() for x in self.inputs]

    def see(self, observation):
        """Features of one more step."""
        layer = self.trunk.encoder.layer
        x = torch.tanh(layer.weight @ observation + layer.bias)
        if isinstance(self.cell, list):
            x = transformer_step(self.trunk.memory[self.name], x, self.cell)
        elif self.name:
            x, self.cell = cell_step(self.trunk.memory[self.name], x, self.cell)
        if "attention" in self.trunk.memory:
            self.inputs.append(x)
            x = attend(self.trunk.memory["attention"], self.inputs)
        return x


def heads(network, features, critic_features, action):
    """log π(action), entropy and value at one step."""
    value_layer = network.value.hidden[0]
    hidden = torch.tanh(value_layer.weight @ critic_features + value_layer.bias)
    value = (network.value.layer.weight @ hidden + network.value.layer.bias)[0]
    value = value * math.sqrt(max(network.value.variance.item(), 1e-8)) + network.value.mean
    inner, outer = (network.policy.logits if hasattr(network.policy, "logits") else network.policy.mean)[:2]
    output = outer.weight @ torch.tanh(inner[0].weight @ features + inner[0].bias) + outer.bias
    if hasattr(network.policy, "logits"):
        log_probs = output - torch.logsumexp(output, 0)
        return log_probs[action], -(log_probs.exp() * log_probs).sum(), value
    log_prob, entropy = 0.0, 0.0
    for a, m, s, bounded in zip(action, output, network.policy.log_std, network.policy.bounded, strict=True):
        m = torch.tanh(m) if bounded else m
        log_prob += -0.5 * ((a - m) / torch.exp(s)) ** 2 - s - 0.5 * math.log(2 * math.pi)
        entropy += 0.5 + 0.5 * math.log(2 * math.pi) + s
        if bounded:
            # The part of the normal distribution between -1 and 1.
            low, high = (-1 - m) / torch.exp(s), (1 - m) / torch.exp(s)
            within = 0.5 * (torch.erf(high / math.sqrt(2)) - torch.erf(low / math.sqrt(2)))
            density_low, density_high = (torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi) for z in (low, high))
            log_prob -= torch.log(within)
            entropy += torch.log(within) + (low * density_low - high * density_high) / (2 * within)
    return log_prob, entropy, value


def unrolled(network, rollout, bptt_length):
    """{(t, b): (log π, entropy, value)} of every played step, b by b; no gradient passes a cut through memory."""
    answers = {}
    trunks = {"actor": network.actor} | ({} if network.critic is None else {"critic": network.critic})
    for b in range(rollout.valid.shape[1]):
        memories = {}
        for t in range(len(rollout.valid)):
            if not rollout.valid[t, b]:
                continue
            age = int(rollout.age[t, b])
            if age == 0:
                memories = {name: Memory(trunk, {}) for name, trunk in trunks.items()}
            elif t == 0:
                row = int(rollout.state_index[t, b])
                memories = {
                    name: Memory(trunk, {k.removeprefix(f"{name}."): v[row] for k, v in rollout.state.items()
                                         if k.startswith(f"{name}.")})
                    for name, trunk in trunks.items()
                }  # fmt: skip
            elif bptt_length and age % bptt_length == 0:
                for memory in memories.values():
                    memory.cut()
            features = {name: memory.see(rollout.observation[t, b].double()) for name, memory in memories.items()}
            critic = features.get("critic", features["actor"])
            answers[t, b] = heads(network, features["actor"], critic, rollout.action[t, b])
    return answers


def advantages(rollout, gamma, lambda_):
    """{(t, b): A} as the sum over the rest of the episode: Σ (γλ)^k δ_{t+k}."""
    answers = {}
    for b in range(rollout.valid.shape[1]):
        for t in range(len(rollout.valid)):
            if not rollout.valid[t, b]:
                continue
            total, discount = 0.0, 1.0
            for k in range(t, len(rollout.valid)):
                if not rollout.valid[k, b]:
                    break
                following = 0.0 if rollout.terminated[k, b] else rollout.next_value[k, b].item()
                total += discount * (rollout.reward[k, b].item() + gamma * following - rollout.value[k, b].item())
                discount *= gamma * lambda_
                if rollout.terminated[k, b] or rollout.truncated[k, b]:
                    break
            answers[t, b] = total
    return answers


def ppo_loss(answers, batch, clip_range, value_coefficient, entropy_coefficient, value_std):
    """PPO's loss over `answers`, in the order of the batch."""
    total = 0.0
    for n, (log_prob, entropy, value) in enumerate(answers):
        ratio = torch.exp(log_prob - batch.log_prob[n])
        clipped = torch.clamp(ratio, 1 - clip_range, 1 + clip_range)
        policy = -torch.minimum(ratio * batch.advantage[n], clipped * batch.advantage[n])
        error = (value - batch.target[n]) / value_std
        total = total + policy + value_coefficient * 0.5 * error**2 - entropy_coefficient * entropy
    return total / len(answers)
