"""A logger of your own: the learning curve as a line of text."""

BARS = "▁▂▃▄▅▆▇█"


class Sparkline:
    """Draws the mean return in curve.txt, one bar per update, scaled from `low` to `high`."""

    def __init__(self, folder, env_steps, low, high):
        self.low, self.high = low, high
        self.file = (folder / "curve.txt").open("a", encoding="utf-8")

    def write(self, row, env_steps):
        if "rollout/return_mean" in row:
            share = (row["rollout/return_mean"] - self.low) / (self.high - self.low)
            print(BARS[max(0, min(7, int(8 * share)))], end="", file=self.file, flush=True)

    def close(self):
        self.file.close()
