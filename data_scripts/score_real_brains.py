"""Plant lesions into real scans (IXI): does a network trained on simulated brains still find them?

Half of the people are for training, the other half for testing. The network is scored on real
brains as it was trained on simulated ones, and again after a few epochs on planted lesions in the
training half. The simulated held-out cohort is scored by both as well, to see what is forgotten.

    python data_scripts/score_real_brains.py
"""

import argparse
from pathlib import Path

import pandas as pd

from helpers import cohorts, models, results

PLANT_SEED, SPLIT_SEED, FINE_TUNE_SEED = 300, 0, 400
PLANTINGS, EPOCHS, LEARNING_RATE = 8, 6, 5e-4


def main() -> None:
    """Score, fine-tune, score again, and write all scores with what made them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "folder", type=Path, nargs="?", help="IXI in BIDS layout; downloaded when left out"
    )
    parser.add_argument("--cache", type=Path, help="where preprocessed scans are kept")
    arguments = parser.parse_args()

    # Labelled by sex, so that both halves have the same share of women and men.
    real = cohorts.ixi(arguments.folder, cache=arguments.cache)
    train_half, test_half = real.split([0.5, 0.5], SPLIT_SEED)
    simulated = models.pretrained("lesion")
    held_out = simulated.card["held_out"]["lesion"]
    tests = {
        "simulated brains": cohorts.simulate(subjects=held_out["subjects"], **held_out["cohort"]),
        "all real brains": cohorts.simulate("lesion", seed=PLANT_SEED, base=real),
        "real brains, test half": cohorts.simulate("lesion", seed=PLANT_SEED + 1, base=test_half),
    }
    rows = [_score(simulated, "trained on simulated brains", tests)]

    planted = cohorts.concatenate(
        [
            cohorts.simulate("lesion", seed=FINE_TUNE_SEED + k, base=train_half)
            for k in range(PLANTINGS)
        ]
    )
    tests.pop("all real brains")  # half of them are training subjects from here on
    tuned = models.pretrained("lesion")
    models.train(
        tuned,
        planted,
        epochs=EPOCHS,
        learning_rate=LEARNING_RATE,
        augment=models.flips,
        seed=FINE_TUNE_SEED,
    )
    rows.append(_score(tuned.cpu(), "then trained on half of the real brains", tests))
    rows.append(
        models.baselines(planted, tests["real brains, test half"]).assign(
            tested_on="real brains, test half"
        )
    )
    table = pd.concat(rows, ignore_index=True)
    print(table.round(3).to_string(index=False))
    result = {
        "what": "Lesion task: shapes planted into real scans; five classes, chance is 0.2.",
        "scans": f"{len(real)} T1-weighted scans of IXI (Hammersmith), CC BY-SA 3.0",
        "command": "python data_scripts/score_real_brains.py",
        "training": {
            "people": len(train_half),
            "plantings_a_person": PLANTINGS,
            "epochs": EPOCHS,
            "learning_rate": LEARNING_RATE,
        },
        "seeds": {"split": SPLIT_SEED, "test": PLANT_SEED, "training": FINE_TUNE_SEED},
        "scores": table.round(4).to_dict("records"),
    }
    results.write("real_brains", result)


def _score(model, name: str, tests: dict) -> pd.DataFrame:
    return pd.concat(
        [
            models.scores(models.predict(model, test.volumes), test, name=name).assign(tested_on=on)
            for on, test in tests.items()
        ]
    )


if __name__ == "__main__":
    main()
