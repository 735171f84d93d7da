"""Images of the built-in tasks."""

import numpy as np
import pytest
import torch

from seqrl.envs import CartPole, TMaze
from seqrl.envs.tasks.pictures import INK, SIGN, WOOD, cart_pole, t_maze


def where(picture, colour):
    """Centre of the pixels of a colour: from the left, from the top."""
    rows, columns = np.nonzero(np.abs(picture.astype(int) - colour).max(2) < 8)
    return columns.mean(), rows.mean()


@pytest.mark.parametrize(("position", "angle"), [(-1.5, 0.2), (0.0, 0.0), (2.0, -0.2)])
def test_the_cart_and_its_pole_are_drawn_where_they_are(position, angle):
    picture = cart_pole(position, angle, end=2.4, pole=1.0)
    assert picture.shape == (200, 480, 3)
    assert picture.dtype == np.uint8
    x, _ = where(picture, INK)
    assert x == pytest.approx(240 + 100 * position, abs=2)
    # The middle of the pole lies half its length above its hinge.
    pole, height = where(picture, WOOD)
    assert pole - x == pytest.approx(50 * np.sin(angle), abs=4)
    assert height < 150


def test_the_agent_is_drawn_where_it_is_and_the_sign_fades():
    assert where(t_maze(0, 10, 1.0, True), INK)[0] == pytest.approx(60, abs=1)
    assert where(t_maze(10, 10, 1.0, False), INK)[0] == pytest.approx(420, abs=1)
    up, down = (where(t_maze(0, 10, sign, True), SIGN)[1] for sign in (1.0, -1.0))
    assert up < 100 < down
    assert not (t_maze(1, 10, 1.0, False) == SIGN).all(2).any()


def test_an_environment_renders_the_first_of_its_copies():
    carts = CartPole(3, seed=0)
    carts.reset()
    carts._state[0] = torch.tensor([1.0, 0.0, 0.1, 0.0])
    assert np.array_equal(carts.render(), cart_pole(1.0, 0.1, 2.4, 1.0))
    mazes = TMaze(3, seed=0, corridor_length=4)
    mazes.reset()
    mazes.step(torch.tensor([0, 1, 1]))
    assert np.array_equal(mazes.render(), t_maze(1, 4, float(mazes._sign[0]), False))
