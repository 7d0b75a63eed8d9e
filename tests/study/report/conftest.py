"""Studies whose trainings are computed by formulas: finished, with failures, without results."""

import pytest

from bsprobe.study.records import Study
from tests.support.study_builders import FormulaTrainer, made_study, study_settings


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Three batches and two seeds, all finished."""
    return made_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="session")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Batch 8 runs out of memory and is accumulated; a seed of batch 2 diverges."""
    trainer = FormulaTrainer(
        holds=4, diverges=lambda spec: spec.plan.effective_batch == 2 and spec.seed == 1
    )
    return made_study(tmp_path_factory.mktemp("troubled"), study_settings(2, 4, 8), trainer)


@pytest.fixture(scope="session")
def hopeless(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study in which no batch fits."""
    return made_study(
        tmp_path_factory.mktemp("hopeless"), study_settings(2, seeds=1), FormulaTrainer(holds=0)
    )
