"""The section about an evaluation in a model's card."""

from __future__ import annotations

import pytest

from recipes.evaluation.card import with_evaluation
from tests.parts.scorecards import scorecard


@pytest.mark.parametrize("card", ["", "# A model\n", "---\nlicense: mit\n---\n\n# A model\n\nWords.\n"])
def test_there_is_one_section_and_it_is_the_last(card: str) -> None:
    once = with_evaluation(card, scorecard())
    assert once.startswith(card.rstrip())
    assert once.count("## Evaluation\n\nMeasured by packer") == 1
    assert with_evaluation(once, scorecard()) == once


def test_what_stands_behind_an_earlier_section_stays() -> None:
    card = with_evaluation("# A model\n", scorecard()) + "\n## Usage\n\nAs any other.\n"
    again = with_evaluation(card, scorecard())
    assert again.count("## Evaluation") == 1
    assert again.index("As any other.") < again.index("## Evaluation")


def test_the_users_own_section_stays() -> None:
    card = "# A model\n\n## Evaluation\n\nBy hand.\n"
    assert with_evaluation(card, scorecard()).startswith(card.rstrip())
