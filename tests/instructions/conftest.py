import pytest

from instructrec_jax.instructions.document import Context, Document
from instructrec_jax.instructions.execution import Sandbox
from instructrec_jax.instructions.recipe import Recipe
from instructrec_jax.instructions.sources import python_code
from instructrec_jax.instructions.tasks import TASKS


@pytest.fixture(scope="session")
def sandbox():
    with Sandbox(seconds=5.0) as box:
        yield box


@pytest.fixture
def drafts_of(sandbox):
    """drafts_of(task, document) → the task's drafts as a list."""

    def generate(task, document):
        return list(TASKS[task].generate(document, Context(seed=0, sandbox=sandbox)))

    return generate


@pytest.fixture
def code_document():
    """code_document(source, name) → the document of the definition called `name`."""

    def find(source, name="f"):
        found = python_code.definitions(source, uri="m.py", licence="PSF-2.0")
        return next(document for document in found if document.content["name"] == name)

    return find


@pytest.fixture
def document_of():
    """document_of(kind, **content) → a document with this content."""

    def make(kind, /, **content):
        text = repr(content)
        return Document("corpus", "uri", None, text, "MIT", "group", kind=kind, content=content)

    return make


@pytest.fixture(scope="session")
def recipe():
    """recipe(**changes) → a small recipe of all sources and tasks."""

    def make(**changes):
        defaults = {
            "seed": 0,
            "sources": ("python_code", "python_topics", "locale_names", "package_metadata"),
            "corpora": (),
            "allowed_licences": (),
            "tasks": (),
            "languages": ("de", "zh"),
            "max_documents_per_source": 0,
            "max_examples_per_task": 0,
            "phrasings_per_example": 1,
            "min_target_characters": 1,
            "max_target_characters": 2_000,
            "max_input_characters": 8_000,
            "validation_fraction": 0.1,
            "test_fraction": 0.2,
            "holdout_phrasings": 2,
            "holdout_tasks": (),
            "max_test_examples": 0,
            "execution_seconds": 5.0,
            "execution_mebibytes": 512,
        }
        return Recipe(**(defaults | changes))

    return make
