"""What makes a finished dataset another one than the recipe would give now."""

from types import SimpleNamespace

from instructrec_jax.instructions.ingredients import (
    differences,
    files_digest,
    packages_digest,
    recipe_record,
)


def record(recipe, sha256="", **changes):
    return recipe_record(
        recipe(**changes),
        tokenizer={"path": ""},
        tokenizer_sha256=sha256,
        format_version=1,
    )


def test_names_and_contents_of_files_count(tmp_path):
    def digest():
        return files_digest(tmp_path, tmp_path.rglob("*.py"))

    (tmp_path / "a.py").write_text("x")
    (tmp_path / "b.py").write_text("y")
    first = digest()
    (tmp_path / "c.txt").write_text("z")
    assert digest() == first
    (tmp_path / "b.py").write_text("z")
    second = digest()
    (tmp_path / "b.py").rename(tmp_path / "c.py")
    assert len({first, second, digest()}) == 3


def test_packages_count_by_name_and_version_in_any_order():
    def package(name, version):
        return SimpleNamespace(metadata={"Name": name}, version=version)

    a, b = package("a", "1"), package("b", "2")
    assert packages_digest([a, b]) == packages_digest([b, a, a])
    assert packages_digest([a, b]) != packages_digest([a, package("b", "2.1")])


def test_only_what_the_recipe_uses_is_there(recipe):
    used = record(recipe, tasks=("find_bug",))["ingredients"]
    assert set(used["templates"]) == {"find_bug"} and "installed packages" not in used
    assert "installed packages" in record(recipe)["ingredients"]


def test_differences_are_named_once(recipe):
    mine = record(recipe)
    assert differences(mine, record(recipe)) == []
    assert differences(mine, record(recipe, seed=1)) == ["seed"]
    assert differences(mine, record(recipe, tasks=("find_bug",)))[0] == "tasks"
    assert differences(mine, record(recipe, sha256="ab")) == ["the tokenizer"]
    assert differences(mine, {**mine, "recipe_sha256": ""}) == ["format version"]
    # A task that only the finished one has templates of.
    templates = {**mine["ingredients"]["templates"], "sing_song": "ab"}
    theirs = {**mine, "ingredients": {**mine["ingredients"], "templates": templates}}
    assert differences(mine, {**theirs, "recipe_sha256": ""}) == ["templates of sing_song"]
    older = {key: mine[key] for key in ("recipe", "versions")}
    assert "the generators" in differences(mine, older)


def test_the_files_of_a_corpus_count_wherever_they_lie(recipe, tmp_path):
    def ingredients(folder):
        entry = {"name": "mine", "reader": "text", "path": str(folder)}
        found = record(recipe, sources=("mine",), corpora=(entry,))
        assert "lxml" in found["versions"]
        return found["ingredients"]["files of the corpora"]

    for name in ("one", "two"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "a.txt").write_text("Words.")
    assert ingredients(tmp_path / "one") == ingredients(tmp_path / "two")
    (tmp_path / "two" / "deep" / "a.txt").write_text("Swords")
    assert ingredients(tmp_path / "one") != ingredients(tmp_path / "two")
    assert "files of the corpora" not in record(recipe)["ingredients"]
