"""The flags of the decode binary, and what they ask for, checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from absl import flags

from instructrec_jax.decoding.beam import BeamSettings
from instructrec_jax.decoding.choosing import CHOOSE_BY, ChooseBy
from instructrec_jax.decoding.logit_rules import LogitRules
from instructrec_jax.decoding.sampling import SamplingSettings
from instructrec_jax.decoding.shards import Shard
from instructrec_jax.errors import ConfigError
from instructrec_jax.training.processes import DISTRIBUTED

_DEFAULT_NUM_BEAMS = 4

CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Run folder, one of its checkpoints, or a folder with a model."
)
INPUT = flags.DEFINE_string("input", None, "File of lines to answer (.gz too), - for stdin.")
OUTPUT = flags.DEFINE_string(
    "output", "-", "File for the JSON lines, - for stdout. The same command goes on with it."
)
OVERWRITE = flags.DEFINE_boolean("overwrite", False, "Start --output over.")
PROMPT = flags.DEFINE_string("prompt", None, "One instruction, in place of --input.")
CHAT = flags.DEFINE_boolean("chat", False, "Ask and be answered line by line, /help says how.")
MODE = flags.DEFINE_enum(
    "mode",
    "generate",
    ["generate", "score", "choose"],
    "Answer, tell how probable given targets are, or choose among given options.",
)
CHOOSE = flags.DEFINE_enum(
    "choose_by", None, list(CHOOSE_BY), "Log-probability that --mode=choose goes by; sum."
)
SEARCH = flags.DEFINE_enum(
    "search",
    None,
    ["greedy", "sample", "beam"],
    "How to look for the best answer, or to draw answers; greedy by default.",
)
NUM_BEAMS = flags.DEFINE_integer(
    "num_beams",
    None,
    f"Answers that beam search follows at once; {_DEFAULT_NUM_BEAMS} by default.",
)
LENGTH_PENALTY = flags.DEFINE_float(
    "length_penalty",
    None,
    "Beam search ranks by log-probability / length^this; 1 by default, more favours long answers.",
)
EARLY_STOPPING = flags.DEFINE_enum(
    "early_stopping",
    None,
    ["false", "true", "never"],
    "When beam search ends once --num_beams answers have: where no other seems likely to be "
    "better (false, the default), at once (true), or where none can be (never).",
)
NUM_BEAM_GROUPS = flags.DEFINE_integer(
    "num_beam_groups",
    None,
    "Diverse beam search: so many groups share --num_beams, and each shuns what those before it "
    "write; 1 by default.",
)
DIVERSITY_PENALTY = flags.DEFINE_float(
    "diversity_penalty",
    None,
    "What a token costs a group for each beam of the groups before it that has it there; 1 with "
    "several --num_beam_groups.",
)
NUM_OUTPUTS = flags.DEFINE_integer(
    "num_outputs",
    None,
    "Answers to give of each prompt, by beam search at most --num_beams; 1 by default.",
)
TEMPERATURE = flags.DEFINE_float(
    "temperature", None, "Sampling divides logits by it; 1 by default, less is less random."
)
TOP_K = flags.DEFINE_integer("top_k", None, "Sampling draws among so many likeliest tokens.")
TOP_P = flags.DEFINE_float(
    "top_p", None, "Sampling draws among the fewest tokens that are together so probable."
)
MIN_P = flags.DEFINE_float(
    "min_p", None, "Sampling draws among tokens so many times as probable as the likeliest."
)
SEED = flags.DEFINE_integer(
    "seed", None, "Of sampling, 0 by default: the same seed and id give the same answer."
)
MAX_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens", None, "Longest answer in tokens; by default the target length of training."
)
MIN_NEW_TOKENS = flags.DEFINE_integer(
    "min_new_tokens", None, "Least tokens of an answer before its eos; 0 by default."
)
REPETITION_PENALTY = flags.DEFINE_float(
    "repetition_penalty", None, "Makes tokens that the answer has less likely; above 1."
)
NO_REPEAT_NGRAM = flags.DEFINE_integer(
    "no_repeat_ngram_size", None, "No run of so many tokens comes twice in an answer."
)
BAD_WORDS = flags.DEFINE_multi_string(
    "bad_words", [], "A text whose tokens no answer holds; may be given several times."
)
STOP = flags.DEFINE_multi_string(
    "stop", [], "A text that ends the answer before it; may be given several times."
)
PREFIX = flags.DEFINE_string(
    "prefix", None, "How all answers begin; a record's field `prefix` counts before it."
)
CONSTRAIN = flags.DEFINE_enum(
    "constrain", None, ["options"], "Answers are among the record's `options`."
)
REGEX = flags.DEFINE_string("regex", None, "Answers match this regular expression as a whole.")
JSON_SCHEMA = flags.DEFINE_string(
    "json_schema", None, "Answers are JSON by the schema in this file."
)
MAX_INPUT_TOKENS = flags.DEFINE_integer(
    "max_input_tokens",
    None,
    "Longest prompt in tokens, longer ones lose their end; by default the model's input length.",
)
MAX_TARGET_TOKENS = flags.DEFINE_integer(
    "max_target_tokens",
    None,
    "Lines with a longer target, prefix or option get an error, for memory grows by the square; "
    "by default four times the model's longest answer, and 1,024 at least.",
)
PARSE_SENTINELS = flags.DEFINE_boolean(
    "parse_sentinels", False, "<extra_id_0> in a text is the sentinel token, not plain text."
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Prompts answered at once.")
PARAMETER_DTYPE = flags.DEFINE_enum(
    "parameter_dtype", "float32", ["float32", "bfloat16", "int8"], "In which the weights are kept."
)
MESH = flags.DEFINE_string(
    "mesh", None, "Devices to split batch and weights over: data=4,tensor=2; one by default."
)
SHARD_INDEX = flags.DEFINE_integer(
    "shard_index", None, "Which of --shard_count processes this is, from 0: it answers its lines."
)
SHARD_COUNT = flags.DEFINE_integer(
    "shard_count", None, "Processes that share --input, each with a file beside --output."
)
COMPILE_CACHE = flags.DEFINE_string(
    "compile_cache", None, "Folder that keeps compiled programs for the next run."
)

# Flags that have a meaning with one search alone, and values that mean nothing special.
_OF_SEARCH = {
    "beam": (
        *((NUM_BEAMS, 1), (LENGTH_PENALTY, None), (EARLY_STOPPING, None)),
        *((NUM_BEAM_GROUPS, 1), (DIVERSITY_PENALTY, None)),
    ),
    "sample": ((TEMPERATURE, None), (TOP_K, None), (TOP_P, None), (MIN_P, None), (SEED, None)),
}
# Flags that have a meaning only where answers are generated.
_OF_GENERATING: tuple[flags.FlagHolder[Any], ...] = (
    *(SEARCH, NUM_BEAMS, LENGTH_PENALTY, EARLY_STOPPING, NUM_OUTPUTS, MAX_NEW_TOKENS),
    *(NUM_BEAM_GROUPS, DIVERSITY_PENALTY),
    *(MIN_NEW_TOKENS, TEMPERATURE, TOP_K, TOP_P, MIN_P, SEED, REPETITION_PENALTY),
    *(NO_REPEAT_NGRAM, BAD_WORDS, STOP, PREFIX, CONSTRAIN, REGEX, JSON_SCHEMA),
)
# The least values of flags.
_LEAST: tuple[tuple[flags.FlagHolder[int | None], int], ...] = (
    (MAX_NEW_TOKENS, 1),
    (MIN_NEW_TOKENS, 0),
    (NO_REPEAT_NGRAM, 1),
    (MAX_INPUT_TOKENS, 1),
    (MAX_TARGET_TOKENS, 1),
    (NUM_BEAMS, 1),
    (NUM_OUTPUTS, 1),
    (NUM_BEAM_GROUPS, 1),
    (BATCH_SIZE, 1),
)
_EARLY_STOPPING_VALUES: dict[str | None, bool | Literal["never"]] = {
    None: False,
    "false": False,
    "true": True,
    "never": "never",
}
# What changes no answer, and so may change between two parts of one run.
_NOT_OF_ANSWERS: tuple[flags.FlagHolder[Any], ...] = (
    *(INPUT, OUTPUT, OVERWRITE, BATCH_SIZE, MESH, COMPILE_CACHE, CHAT),
    *(SHARD_INDEX, SHARD_COUNT, DISTRIBUTED),
)


@dataclass(frozen=True)
class Command:
    """What the flags ask for, in so far as no model is needed to tell."""

    mode: str
    beams: BeamSettings | None
    sampling: SamplingSettings | None
    rules: LogitRules  # without bad words, which the tokenizer makes tokens of
    bad_words: tuple[str, ...]
    stop: tuple[str, ...]
    prefix: str
    constrain_to_options: bool
    regex: str | None
    json_schema: str | None
    choose_by: ChooseBy
    max_new_tokens: int | None
    max_input_tokens: int | None
    max_target_tokens: int | None
    parse_sentinels: bool
    batch_size: int
    shard: Shard

    @property
    def has_grammar(self) -> bool:
        """Whether a regular expression or a schema says what all answers may be."""
        return self.regex is not None or self.json_schema is not None

    @property
    def reads_options(self) -> bool:
        """Whether records must have `options`."""
        return self.mode == "choose" or self.constrain_to_options


def read_command() -> Command:
    """The flags as settings. ConfigError: values out of range, or that contradict each other."""
    _check_what_to_answer()
    for flag, least in _LEAST:
        if flag.value is not None and flag.value < least:
            raise ConfigError(f"--{flag.name} must be at least {least}, not {flag.value}")
    _check_meanings()
    _check_processes()
    rules = LogitRules(
        min_new_tokens=MIN_NEW_TOKENS.value or 0,
        repetition_penalty=REPETITION_PENALTY.value,
        no_repeat_ngram_size=NO_REPEAT_NGRAM.value or 0,
    )
    rules.check()
    if any(not word.strip() for word in [*BAD_WORDS.value, *STOP.value] if word != "\n"):
        raise ConfigError("--bad_words and --stop take texts that are not empty")
    return Command(
        mode=str(MODE.value),
        beams=_beam_settings() if SEARCH.value == "beam" else None,
        sampling=_sampling_settings() if SEARCH.value == "sample" else None,
        rules=rules,
        bad_words=tuple(BAD_WORDS.value),
        stop=tuple(STOP.value),
        prefix=PREFIX.value or "",
        constrain_to_options=CONSTRAIN.value == "options",
        regex=REGEX.value,
        json_schema=JSON_SCHEMA.value,
        choose_by=cast(ChooseBy, CHOOSE.value or "sum"),
        max_new_tokens=MAX_NEW_TOKENS.value,
        max_input_tokens=MAX_INPUT_TOKENS.value,
        max_target_tokens=MAX_TARGET_TOKENS.value,
        parse_sentinels=bool(PARSE_SENTINELS.value),
        batch_size=int(BATCH_SIZE.value),
        shard=_shard(),
    )


def answer_settings() -> dict[str, Any]:
    """The values of all flags that decide answers, ready for JSON."""
    holders = {
        name: value for name, value in globals().items() if isinstance(value, flags.FlagHolder)
    }
    left_out = {flag.name for flag in _NOT_OF_ANSWERS}
    return {
        flag.name: flag.value
        for flag in sorted(holders.values(), key=lambda flag: flag.name)
        if flag.name not in left_out
    }


def _check_what_to_answer() -> None:
    if not CHECKPOINT.value:
        raise ConfigError("give a trained model, for example --checkpoint=runs/demo")
    asked = (INPUT.value is not None) + (PROMPT.value is not None) + bool(CHAT.value)
    if asked != 1:
        raise ConfigError("give either --input=FILE (- for stdin), --prompt='...' or --chat")
    if PROMPT.value is not None and not PROMPT.value.strip():
        raise ConfigError("--prompt is empty")
    if MODE.value != "generate" and INPUT.value is None:
        what = "prompts and targets" if MODE.value == "score" else "prompts and options"
        other = "--chat" if CHAT.value else "--prompt"
        raise ConfigError(f"--mode={MODE.value} reads {what} from --input, not {other}")
    if CONSTRAIN.value is not None and INPUT.value is None:
        raise ConfigError("--constrain=options reads prompts and options from --input")
    if INPUT.value is not None:
        source, target = Path(INPUT.value), Path(OUTPUT.value)
        if source.exists() and target.exists() and source.samefile(target):
            raise ConfigError(f"--output={target} would overwrite the input")


def _check_meanings() -> None:
    if MODE.value != "generate":
        for given in _OF_GENERATING:
            if given.value not in (None, []):
                raise ConfigError(f"--{given.name} has no meaning with --mode={MODE.value}")
    if CHOOSE.value is not None and MODE.value != "choose":
        raise ConfigError(f"--choose_by={CHOOSE.value} needs --mode=choose")
    for search, its_flags in _OF_SEARCH.items():
        if SEARCH.value != search:
            for flag, harmless in its_flags:
                if flag.value not in (None, harmless):
                    raise ConfigError(f"--{flag.name}={flag.value} needs --search={search}")
    if NUM_OUTPUTS.value not in (None, 1) and SEARCH.value not in _OF_SEARCH:
        raise ConfigError(
            f"--num_outputs={NUM_OUTPUTS.value} needs --search=beam or --search=sample"
        )
    guides = [flag.name for flag in (CONSTRAIN, REGEX, JSON_SCHEMA) if flag.value is not None]
    if len(guides) > 1:
        raise ConfigError(f"--{guides[0]} and --{guides[1]} cannot both say what answers may be")
    if CHAT.value and SEARCH.value == "beam":
        raise ConfigError("--chat writes answers as they grow: --search=greedy or --search=sample")
    if CHAT.value and NUM_OUTPUTS.value not in (None, 1):
        raise ConfigError("--chat gives one answer, not --num_outputs")


def _check_processes() -> None:
    if DISTRIBUTED.value:
        if MESH.value is None:
            raise ConfigError(
                "--distributed splits one model over the devices of all processes: say how, for "
                "example --mesh=data=4,tensor=2"
            )
        if CHAT.value or INPUT.value == "-":
            raise ConfigError("--distributed reads --input from a file that all processes see")
    if (SHARD_INDEX.value is None) != (SHARD_COUNT.value is None):
        raise ConfigError("--shard_index and --shard_count go together, for example 0 and 4")
    if SHARD_COUNT.value is None:
        return
    if not 0 <= (SHARD_INDEX.value or 0) < SHARD_COUNT.value:
        raise ConfigError(
            f"--shard_index={SHARD_INDEX.value} is none of --shard_count={SHARD_COUNT.value} "
            "shards, the first of which is 0"
        )
    if INPUT.value in (None, "-") or OUTPUT.value == "-":
        raise ConfigError("--shard_count takes --input and --output that are files")


def _shard() -> Shard:
    if SHARD_COUNT.value is None:
        return Shard()
    return Shard(int(SHARD_INDEX.value or 0), int(SHARD_COUNT.value))


def _beam_settings() -> BeamSettings:
    num_beams = _DEFAULT_NUM_BEAMS if NUM_BEAMS.value is None else NUM_BEAMS.value
    num_outputs = 1 if NUM_OUTPUTS.value is None else NUM_OUTPUTS.value
    if num_outputs > num_beams:
        raise ConfigError(f"--num_outputs={num_outputs} is more than --num_beams={num_beams}")
    groups = NUM_BEAM_GROUPS.value or 1
    if num_beams % groups:
        raise ConfigError(f"--num_beam_groups={groups} does not divide --num_beams={num_beams}")
    penalty = DIVERSITY_PENALTY.value
    if penalty is not None and groups == 1:
        raise ConfigError(f"--diversity_penalty={penalty} needs several --num_beam_groups")
    if penalty is None:
        penalty = 0.0 if groups == 1 else 1.0
    return BeamSettings(
        num_beams=num_beams,
        length_penalty=1.0 if LENGTH_PENALTY.value is None else LENGTH_PENALTY.value,
        early_stopping=_EARLY_STOPPING_VALUES[EARLY_STOPPING.value],
        num_outputs=num_outputs,
        num_beam_groups=groups,
        diversity_penalty=penalty,
    )


def _sampling_settings() -> SamplingSettings:
    settings = SamplingSettings(
        temperature=1.0 if TEMPERATURE.value is None else TEMPERATURE.value,
        top_k=TOP_K.value,
        top_p=TOP_P.value,
        min_p=MIN_P.value,
        seed=SEED.value or 0,
        num_outputs=NUM_OUTPUTS.value or 1,
    )
    settings.check()
    return settings
