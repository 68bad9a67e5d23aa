"""What holds for every arm, whoever adds it."""

import inspect
import itertools

import numpy as np
import pytest

from study.arms import ARMS, BASELINE, UNTRAINED

TRAINED = [arm for arm in ARMS.values() if arm.loss is not None]

# Machado, Oliveira and Fernandes 2009, severity 1, of linear RGB.
SIGHT = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}


def linear(colour: str) -> np.ndarray:
    srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Ottosson's perceptual space, in which distances are differences that one sees."""
    to_cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    to_lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return to_lab @ np.cbrt(to_cones @ rgb.clip(0, 1))


@pytest.mark.parametrize("sight", SIGHT)
def test_colours_are_apart_whoever_looks(sight: str) -> None:
    seen = {arm.name: oklab(SIGHT[sight] @ linear(arm.colour)) for arm in ARMS.values()}
    apart = {
        (a, b): float(np.linalg.norm(seen[a] - seen[b])) for a, b in itertools.combinations(seen, 2)
    }

    assert min(apart.values()) > 0.09, min(apart, key=apart.get)


def test_colours_show_on_white() -> None:
    luminances = [linear(arm.colour) @ [0.2126, 0.7152, 0.0722] for arm in ARMS.values()]

    assert max(luminances) < 0.6


@pytest.mark.parametrize("arm", TRAINED, ids=lambda arm: arm.name)
def test_a_loss_takes_its_hyperparameters_and_what_the_arm_says_it_reads(arm) -> None:
    rate, *others = arm.hyperparameters
    takes = set(inspect.signature(arm.loss).parameters)

    assert rate == "learning_rate"
    assert takes == {"logps", "n_tokens", "n_pairs", *others} | ({"z"} if arm.mismatched else set())


@pytest.mark.parametrize("arm", TRAINED, ids=lambda arm: arm.name)
def test_an_arm_starts_from_one_that_starts_afresh(arm) -> None:
    start = ARMS[arm.starts_from] if arm.starts_from else None

    assert start is None or (start.loss is not None and start.starts_from is None)
    assert start is not None or not (arm.reference or arm.mismatched)


def test_labels_and_names_are_told_apart() -> None:
    assert len({arm.label for arm in ARMS.values()}) == len(ARMS)
    assert [arm.name for arm in ARMS.values()] == list(ARMS)
    assert list(ARMS)[:2] == [UNTRAINED, BASELINE]
