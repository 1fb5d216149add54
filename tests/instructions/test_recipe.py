import pytest

from instructrec_jax.instructions.tasks import TASKS


def test_a_sound_recipe_has_no_problems(recipe):
    assert recipe().problems() == []
    assert recipe().chosen_tasks == tuple(TASKS)


def test_tasks_follow_from_the_sources(recipe):
    chosen = recipe(sources=("package_metadata",)).chosen_tasks
    assert chosen == ("complete_passage", "fill_blanks", "order_sentences", "summarise_package")
    assert recipe(tasks=("find_bug", "write_body")).chosen_tasks == ("write_body", "find_bug")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"sources": ("python_cod",)}, "build.sources: unknown name 'python_cod'; did you mean"),
        ({"sources": ()}, "no raw corpus"),
        ({"tasks": ("find_bugs",)}, "did you mean 'find_bug'"),
        ({"holdout_tasks": ("nothing_like_it_here",)}, "build.holdout_tasks: unknown name"),
        ({"languages": ("english",)}, "'english' is no CLDR locale"),
        ({"languages": ("en",)}, "leave out 'en'"),
        ({"languages": ()}, "needs a language besides English"),
        ({"sources": ("locale_names",), "tasks": ("find_bug",)}, "find_bug needs documents of"),
        ({"holdout_phrasings": 10}, "leaves no template of"),
        ({"holdout_phrasings": -1}, "is below 0"),
        ({"tasks": ("find_bug",), "holdout_tasks": ("find_bug",)}, "every task is held out"),
        ({"test_fraction": 0.95}, "leave nothing to train"),
        ({"test_fraction": float("nan")}, "build.test_fraction: nan is no number"),
        ({"validation_fraction": -0.1}, "build.validation_fraction: -0.1 is below 0"),
        ({"execution_seconds": float("nan")}, "build.execution_seconds: nan is no number"),
        ({"execution_seconds": float("inf")}, "build.execution_seconds: inf is no number"),
        ({"phrasings_per_example": 0}, "is below 1"),
        ({"execution_seconds": 0.0}, "must be above 0"),
        ({"execution_mebibytes": 1}, "is below 64"),
    ],
)
def test_problems_name_the_key(recipe, changes, problem):
    found = recipe(**changes).problems()
    assert any(problem in line for line in found), found


def test_all_problems_are_told_at_once(recipe):
    found = recipe(sources=("a",), tasks=("b",), languages=("xx",), test_fraction=2.0).problems()
    assert len(found) == 4
