import json

import corpora
import pytest

from instructrec_jax.errors import DataError
from instructrec_jax.instructions.reading import has_splits, read_examples
from instructrec_jax.instructions.tfds_source import read_tfds

RECORDS = {
    "premise": ["It rains.", "你好 {x}"],
    "words": [["a", "b"], ["c", "d"]],
    "stars": [3, 5],
    "label": [1, 0],
}
TEMPLATES = {
    "instruction_template": "How many stars has this? Say {{ words | join(' or ') }}.",
    "input_template": "{{ premise }}",
    "target_template": "{{ stars }} {{ label }}",
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A TFDS dataset of two records, prepared on this machine."""
    import tensorflow_datasets as tfds

    from instructrec_jax.data.tensorflow_cpu import tf

    folder = tmp_path_factory.mktemp("tfds")
    tfds.dataset_builders.store_as_tfds_dataset(
        name="tiny_reviews",
        version="1.0.0",
        data_dir=folder,
        split_datasets={"train": tf.data.Dataset.from_tensor_slices(RECORDS)},
        features=tfds.features.FeaturesDict(
            {
                "premise": tfds.features.Text(),
                "words": tfds.features.Sequence(tfds.features.Text()),
                "stars": tf.int64,
                "label": tfds.features.ClassLabel(names=["bad", "good"]),
            }
        ),
        disable_shuffling=True,
    )
    return folder


def read(data_dir, **changes):
    settings = {"split": "train", "data_dir": data_dir, **TEMPLATES, **changes}
    return list(read_tfds("tiny_reviews", **settings))


def test_each_record_becomes_an_example(data_dir):
    first, second = read(data_dir)
    assert first.instruction == "How many stars has this? Say a or b."
    assert (first.input, first.target) == ("It rains.", "3 good")
    assert (second.input, second.target) == ("你好 {x}", "5 bad")
    assert first.id != second.id
    assert (first.task, first.split) == ("tiny_reviews", "train")
    assert first.provenance.corpus == "tfds/tiny_reviews/1.0.0"
    # The record's hash, whatever is asked about it.
    (other, _) = read(data_dir, target_template="{{ label }}")
    assert other.provenance.sha256 == first.provenance.sha256 != second.provenance.sha256


def test_parts_of_a_split_and_a_task_name(data_dir):
    [only] = read(data_dir, split="train[1:]", task="stars")
    assert (only.target, only.task, only.split) == ("5 bad", "stars", "train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "dev"}, "no split 'dev'; it has train"),
        ({"target_template": "{{ answer }}"}, "'answer' is undefined; features: label, premise"),
        ({"target_template": "{{ premise.__class__.mro() }}"}, "target template"),
        ({"target_template": "{{ premise"}, "target template .* is not Jinja"),
        ({"target_template": "{{ range(9) }}"}, "target template .* may not use"),
        ({"target_template": "{% for a in premise %}{{ premise }}{% endfor %}"}, "through a str"),
        ({"target_template": " "}, "the target comes out empty"),
    ],
)
def test_what_is_wrong_is_named(data_dir, changes, message):
    with pytest.raises(DataError, match=message):
        read(data_dir, **changes)


def test_missing_dataset_is_named(tmp_path):
    with pytest.raises(DataError, match="knows no dataset 'no_such_reviews'"):
        list(read_tfds("no_such_reviews", split="train", data_dir=tmp_path, **TEMPLATES))
    with pytest.raises(DataError, match=r"'mnist' is not prepared .* run `tfds build mnist`"):
        list(read_tfds("mnist", split="train", data_dir=tmp_path, **TEMPLATES))


def recipe_file(tmp_path, data_dir, **changes):
    recipe = {
        "name": "tiny_reviews:1.0.0",
        "splits": {"train": "train[:1]", "test": "train[1:]"},
        "instruction": "Rate this.",
        "input": "{{ premise }}",
        "target": "{{ stars }}",
        "data_dir": str(data_dir),
        **changes,
    }
    file = tmp_path / "reviews.tfds.json"
    file.write_text(json.dumps({key: value for key, value in recipe.items() if value is not None}))
    return file


def test_a_recipe_file_stands_for_a_file_of_examples(data_dir, tmp_path):
    file = recipe_file(tmp_path, data_dir)
    assert has_splits(file)
    [test] = read_examples(file, split="test")
    assert (test.instruction, test.input, test.target) == ("Rate this.", "你好 {x}", "5")
    assert [example.split for example in read_examples(file)] == ["train", "test"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": None}, "lacks 'target'"),
        ({"targets": "x"}, "unknown key 'targets'; did you mean 'target'"),
        ({"splits": "train"}, "'splits' has the wrong type"),
        ({"splits": {"dev": "train"}}, "split 'dev' is not one of"),
        ({"name": "tiny_reviews"}, "give the version too"),
    ],
)
def test_a_bad_recipe_names_its_file(changes, message, data_dir, tmp_path):
    with pytest.raises(DataError, match=f"reviews.tfds.json: .*{message}"):
        list(read_examples(recipe_file(tmp_path, data_dir, **changes)))


def test_its_records_are_documents_too(data_dir):
    fields = {"text": "premise", "label": "label", "rating": "stars"}
    options = {"data_dir": str(data_dir), "fields": fields}
    documents, _ = corpora.read("tfds", "tiny_reviews:1.0.0", **options)
    assert [d.content["text"] for d in documents] == RECORDS["premise"]
    assert [d.content["label"] for d in documents] == ["good", "bad"]
    assert documents[1].content["rating"] == "5" and documents[1].licence == "unknown"
    assert documents[1].uri == "tfds:tiny_reviews/1.0.0/train" and documents[1].span == (2, 2)
    with pytest.raises(DataError, match="has no split 'test'; it has train"):
        corpora.read("tfds", "tiny_reviews:1.0.0", split="test", **options)
    with pytest.raises(DataError, match="no column 'premiss'; did you mean 'premise'"):
        corpora.read("tfds", "tiny_reviews:1.0.0", **options | {"fields": {"text": "premiss"}})
    with pytest.raises(DataError, match="knows no dataset"):
        corpora.read("tfds", "no_such:1.0.0", **options)
