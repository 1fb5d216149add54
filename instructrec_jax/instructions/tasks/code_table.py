"""The tasks about code; see `TASKS`."""

from instructrec_jax.instructions.tasks import assertions, code, execution, recovery, repair
from instructrec_jax.instructions.tasks.task import Task

_CODE = ("python_definition",)

CODE_TASKS = {
    "summarise_docstring": Task(
        "The text below a docstring's summary line → the summary line.",
        _CODE,
        code.summarise_docstring,
        target_source="intrinsic",
    ),
    "extract_summary": Task(
        "A whole docstring → its summary line.",
        _CODE,
        code.extract_summary,
        target_source="intrinsic",
        target_in_input="allowed",
    ),
    "document_function": Task(
        "A function → its docstring.",
        _CODE,
        code.document_function,
        target_source="intrinsic",
    ),
    "document_class": Task(
        "A class's header and method signatures → its docstring.",
        _CODE,
        code.document_class,
        target_source="intrinsic",
    ),
    "write_body": Task(
        "A signature and a docstring → the function's body.",
        _CODE,
        code.write_body,
        target_source="intrinsic",
    ),
    "name_function": Task(
        "A function without its name → the name.",
        _CODE,
        code.name_function,
        target_source="intrinsic",
        target_in_input="never",
    ),
    "list_parameters": Task(
        "A function's signature → the names of its parameters.",
        _CODE,
        code.list_parameters,
        target_source="intrinsic",
        target_in_input="allowed",
    ),
    "find_bug": Task(
        "A function with one mistake put in → the wrong line and its fix.",
        _CODE,
        code.find_bug,
        target_source="intrinsic",
    ),
    "classify_bug": Task(
        "A function with one mistake put in → the kind of mistake.",
        _CODE,
        code.classify_bug,
        target_source="intrinsic",
    ),
    "classify_change": Task(
        "A line before and after a mistake was put in → the kind of mistake.",
        _CODE,
        code.classify_change,
        target_source="intrinsic",
    ),
    "doctest_output": Task(
        "An interactive session in a docstring → what Python prints next.",
        _CODE,
        code.doctest_output,
        target_source="intrinsic",
    ),
    "predict_output": Task(
        "A function and a call → the value it returned when it was run.",
        _CODE,
        execution.predict_output,
        target_source="executed",
    ),
    "predict_type": Task(
        "A function and a call → the type of the value it returned when it was run.",
        _CODE,
        execution.predict_type,
        target_source="executed",
    ),
    "expose_bug": Task(
        "A function and a changed version → a call on which their runs differed.",
        _CODE,
        execution.expose_bug,
        target_source="executed",
    ),
    "predict_input": Task(
        "A function and a value → a call that returned it when it was run.",
        _CODE,
        execution.predict_input,
        target_source="executed",
    ),
    "explain_call": Task(
        "A function and a call → what each parameter is, and the value it returned.",
        _CODE,
        execution.explain_call,
        target_source="executed",
        target_in_input="allowed",
    ),
    "repair_function": Task(
        "A function with one mistake and a failing assertion → the whole function put right.",
        _CODE,
        repair.repair_function,
        target_source="executed",
        target_in_input="allowed",
    ),
    "diagnose_error": Task(
        "A function with one mistake and what a call wrongly gave → the mistake and its fix.",
        _CODE,
        repair.diagnose_error,
        target_source="executed",
    ),
    "repair_syntax": Task(
        "A function that does not parse → the function as it was.",
        _CODE,
        repair.repair_syntax,
        target_source="intrinsic",
        target_in_input="allowed",
    ),
    "explain_syntax_error": Task(
        "A function that does not parse and Python's message → the mistake and its fix.",
        _CODE,
        repair.explain_syntax_error,
        target_source="intrinsic",
    ),
    "write_tests": Task(
        "A function → assertions that hold for it, and not all for a changed version.",
        _CODE,
        assertions.write_tests,
        target_source="executed",
    ),
    "complete_test": Task(
        "A function and tests with the last value left out → the value.",
        _CODE,
        assertions.complete_test,
        target_source="executed",
        target_in_input="allowed",
    ),
    "convert_doctest": Task(
        "An interactive session → a test function.",
        _CODE,
        assertions.convert_doctest,
        target_source="intrinsic",
    ),
    "recover_types": Task(
        "A function without annotations → its header with them.",
        _CODE,
        recovery.recover_types,
        target_source="intrinsic",
    ),
    "name_variable": Task(
        "A function with one variable blanked out everywhere → its name.",
        _CODE,
        recovery.name_variable,
        target_source="intrinsic",
        target_in_input="never",
    ),
    "write_signature": Task(
        "A docstring that names every parameter → the function's header.",
        _CODE,
        recovery.write_signature,
        target_source="intrinsic",
    ),
    "complete_code": Task(
        "The beginning of a function → its next statement.",
        _CODE,
        recovery.complete_code,
        target_source="intrinsic",
        target_in_input="allowed",
    ),
    "code_from_comment": Task(
        "A function up to a comment → the statement that the comment is about.",
        _CODE,
        recovery.code_from_comment,
        target_source="intrinsic",
        target_in_input="allowed",
    ),
}
