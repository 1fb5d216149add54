"""Every key of a run, with its meaning and unit. The other files here change some of them.

    python -m instructrec_jax.train --config=configs/t5_base.py

A value is changed in a config file or on the command line, `--config.train.steps=500`. Keys that
do not stand here are refused. `""` and `()` mean "none", 0 means "no limit" where a line says so.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The defaults: T5 1.1 base on the dataset that `build` makes from this machine."""
    config = ConfigDict()
    # Drives the dataset, parameter initialisation, data order and dropout.
    config.seed = 0
    # Run folder; the flag --workdir goes before it.
    config.workdir = "runs/base"
    # Dataset folder or file of JSON lines; the flag --dataset goes before it. A folder that does
    # not exist yet is built by the recipe in `build` below.
    config.dataset = "datasets/standard_library"
    # Start from the parameters and tokenizer of this run, checkpoint, model or Hugging Face folder;
    # "" = from scratch.
    config.init = ""
    config.build = _build()
    config.tokenizer = _tokenizer()
    config.data = _data()
    config.model = _model()
    config.mesh = _mesh()
    config.optimizer = _optimizer()
    config.lora = _lora()
    config.train = _train()
    config.checkpoint = _checkpoint()
    config.evaluate = _evaluate()
    return config


def _build() -> ConfigDict:
    """Raw data to instruction examples (the `build` binary)."""
    build = ConfigDict()
    # Raw corpora to collect: built-in ones of instructrec_jax/instructions/sources/__init__.py, and
    # those of `corpora` by name.
    build.sources = ("python_code", "python_topics", "locale_names", "package_metadata")
    # Your own corpora, each {"name": ..., "reader": ..., "path": ..., "licence": ..., options}:
    # "reader" is a key of READERS in the same file, which has the options, "path" a folder, file,
    # glob or dataset name, "licence" an SPDX name such as "CC-BY-4.0" ("" = unknown, and said so).
    # In place of both: build --corpus=READER:PATH[,name=...][,licence=...][,OPTION=...] ...
    build.corpora = ()
    # Documents of any other licence are refused and counted; () = every licence is taken.
    build.allowed_licences = ()
    # Tasks to construct, out of instructrec_jax/instructions/tasks/__init__.py; () = every task of
    # these sources.
    build.tasks = ()
    # Folders with tasks, readers and phrasings of your own (tasks.py, readers.py,
    # templates/TASK.toml), as docs/tutorial_own_corpus.md makes one.
    build.extensions = ()
    # CLDR locales that English is paired with, in both directions.
    build.languages = ("zh", "de", "fr", "es", "ja", "ru", "ar")
    # Upper bounds, 0 = none: documents read of each corpus, train examples kept of each task.
    build.max_documents_per_source = 0
    build.max_examples_per_task = 20_000
    # Each train question is phrased this many times, with different templates.
    build.phrasings_per_example = 1
    # Lengths in characters; examples outside are rejected and counted.
    build.min_target_characters = 1
    build.max_target_characters = 2_000
    build.max_input_characters = 8_000
    # Share of documents (not examples) that go to each split whole.
    build.validation_fraction = 0.02
    build.test_fraction = 0.1
    # Styles of phrasings to use, out of STYLES in instructrec_jax/instructions/templates.py; () =
    # every style, "chinese" included.
    build.styles = ()
    # Share of train examples that come with solved questions of their task, and the most of one
    # example. How many of them are read, data.encoder_length decides.
    build.demonstrations = 0.0
    build.most_demonstrations = 3
    # Templates a task that training never sees, and tasks that training never sees.
    build.holdout_phrasings = 2
    build.holdout_tasks = ("fill_blanks",)
    # At most this many test examples for each task and hold-out, 0 = all.
    build.max_test_examples = 200
    # Limits of the guarded process that runs collected code: computing time of all calls of a
    # function, in seconds, and address space, in MiB.
    build.execution_seconds = 2.0
    build.execution_mebibytes = 512
    # Run, checkpoint or model whose likelihoods refuse train questions: the filters "ifd" and
    # "nll_outlier"; "" = none.
    build.curation_checkpoint = ""
    build.filters = _filters()
    # Worker processes, 0 = one a core. The dataset does not depend on it.
    build.processes = 0
    return build


def _filters() -> ConfigDict:
    """What is refused besides; see instructrec_jax/instructions/filters.py and decisions.py."""
    filters = ConfigDict()
    # Filters switched off, for ablations: "length", "length_ratio", "copy", "repetition", "script",
    # "missing_medium", "personal_data", "decontamination", "near_duplicate", "contradiction",
    # "duplicate", "similar_question", "label_balance", "target_in_instruction", and with
    # build.curation_checkpoint "ifd", "nll_outlier".
    filters.without = ()
    # Longest target as a multiple of its input, in characters; 0 = no limit.
    filters.max_target_ratio = 100.0
    # Least share of letters in texts of 80 characters and more, white space left out.
    filters.min_letter_share = 0.25
    # First words of the Unicode names of expected letters, such as ("LATIN", "CJK"); () = any.
    filters.scripts = ()
    # Evaluation files, in any format that `train` reads, of which the dataset must hold nothing:
    # no 13 words in a row, no long target, no input with its target.
    filters.decontaminate = ()
    # Documents of so many words and more: from which Jaccard similarity of their runs of five words
    # on two count as near-duplicates, and how many hashes estimate it (MinHash).
    filters.near_duplicate_words = 30
    filters.near_duplicate_similarity = 0.8
    filters.near_duplicate_permutations = 128
    # Drafts of a task of so many words and more, of two documents: the highest ROUGE-L.
    filters.rouge_words = 30
    filters.max_rouge = 0.7
    # A closed task's most frequent label is thinned out to so many times the next one, in train.
    filters.label_ratio = 2.0
    # Refused drafts written to rejected.jsonl.gz for each task and reason, 0 = all.
    filters.rejects_written = 20
    return filters


def _tokenizer() -> ConfigDict:
    """The tokenizer; SentencePiece is trained on the dataset's train split where none is given."""
    tokenizer = ConfigDict()
    # An existing tokenizer (file or folder); "" = train one. Not together with `init`.
    tokenizer.path = ""
    # "sentencepiece", or "bytes" for ByT5's, which needs no training and no path.
    tokenizer.kind = "sentencepiece"
    # Pieces and sentinels together; bytes have a size of their own.
    tokenizer.vocabulary_size = 32_100
    # T5's <extra_id_0> ... at the end of the vocabulary; ByT5 has 125.
    tokenizer.sentinels = 100
    return tokenizer


def _data() -> ConfigDict:
    """Tokens to packed rows."""
    data = ConfigDict()
    # Length of a packed row in tokens, for each side.
    data.encoder_length = 512
    data.decoder_length = 128
    # What happens to an example that is longer than a row: "drop" (counted), "truncate_input"
    # (counted; the target is never cut) or "error".
    data.over_length = "drop"
    # Rows kept open while packing; more fill better and plan slower.
    data.open_bins = 64
    # Examples in a packed row at most; 0 = as many as fit.
    data.max_segments = 0
    # How often each task is drawn: "proportional" (to its examples, at most mixture_cap, 0 = no
    # cap), "temperature" (proportional rates to the power 1 / mixture_temperature), or "explicit"
    # (mixture_rates: {"task": rate, ...}; on the command line --config.data.mixture_rates.TASK=2).
    data.mixture = "proportional"
    data.mixture_cap = 0
    data.mixture_temperature = 1.0
    data.mixture_rates = ConfigDict()
    # Explicit rates from some epochs on, epochs counted from 0, in place of `mixture`, which then
    # tells of the epochs before: ((2, {"task": rate, ...}), (5, {...})). A phase draws nothing of
    # tasks that it does not name.
    data.mixture_schedule = ()
    # Share of train examples that are shown 1 to most_demonstrations solved questions of their
    # task, where the dataset brings none. What does not fit encoder_length is left out and counted.
    data.demonstrations = 0.0
    data.most_demonstrations = 3
    # Share of examples held out for validation where a file brings no splits of its own.
    data.validation_fraction = 0.02
    # Folder of the token cache; "" = inside the dataset folder, or the run folder for a file.
    data.cache = ""
    # "<extra_id_0>" in a training text is the sentinel, as span corruption needs; else plain text.
    data.parse_sentinels = False
    # Training goes on although dataset, batch size, seed or mixture differ from the checkpoint's.
    data.allow_data_change = False
    return data


def _model() -> ConfigDict:
    """Architecture by name, and how it is computed."""
    model = ConfigDict()
    # A name in the table of instructrec_jax/model/families.py; "" = the architecture of `init`.
    model.name = "t5_1_1_base"
    # Share of activations that is left out in training, from 0 to below 1; T5 1.1 was pretrained
    # with 0 and is finetuned with 0.1.
    model.dropout_rate = 0.0
    # "bfloat16" or "float32"; parameters, softmax, norms and loss are always float32.
    model.activation_dtype = "bfloat16"
    # Type in which parameters that are not trained are kept: "float32", or "bfloat16", which rounds
    # them and takes half the memory.
    model.frozen_dtype = "float32"
    # What the backward pass recomputes: a name in instructrec_jax/model/layers.py. "none" is
    # fastest, "full" takes the least memory.
    model.remat = "none"
    # Attention backend, by name.
    model.attention = "einsum"
    return model


def _mesh() -> ConfigDict:
    """Devices along each mesh axis; at most one may be -1 = all that are left."""
    mesh = ConfigDict()
    # Groups of devices with a fast network inside and a slow one between them, such as TPU slices.
    # They split the batch, and gradients are added up between them once a step.
    mesh.slice = 1
    # Copies of the model that split the batch.
    mesh.data = -1
    # Devices that split the batch and the parameters (ZeRO-3).
    mesh.fsdp = 1
    # Devices that split heads, feed-forward and vocabulary.
    mesh.tensor = 1
    return mesh


def _optimizer() -> ConfigDict:
    """Any optimizer of optax by name; T5's Adafactor is the default."""
    optimizer = ConfigDict()
    # "adamw", "lion", "adamw_rms" (AdamW with steps relative to a parameter's RMS, as in nanoT5)
    # and "muon" (embeddings, head, biases and norms by AdamW) are tested on meshes as it is.
    optimizer.name = "adafactor"
    # Keyword arguments of that optax function, e.g. {"b1": 0.9}. The defaults for "adafactor" are
    # T5's own and stand in instructrec_jax/training/optimizer.py.
    optimizer.options = ConfigDict()
    # Peak learning rate, relative to each parameter's scale under Adafactor.
    optimizer.learning_rate = 1e-3
    # "constant" or "rsqrt", or "linear" or "cosine", which fall until the last step; after the
    # warm-up.
    optimizer.schedule = "constant"
    # What the rate falls to at the last step, as a share of the peak.
    optimizer.final_fraction = 0.0
    # Last steps, in which a "constant" or "rsqrt" rate falls linearly to that share; 0 = none.
    optimizer.cooldown_steps = 0
    # Steps from 0 to the peak learning rate.
    optimizer.warmup_steps = 0
    # Gradients are scaled down to this global norm; 0 = not (Adafactor clips by block itself).
    optimizer.clip_norm = 0.0
    # Decoupled decay a step, times the learning rate, of parameters whose whole path matches one of
    # the regexes: matrices and adapters, not norms and position biases.
    optimizer.weight_decay = 0.0
    optimizer.decay = (".*/(kernel|lora_a|lora_b)", "token_embedder/embedding")
    # Decay a step of an exponential moving average of the trained parameters, such as 0.999; 0 =
    # none. The first steps have less, (1 + step) / (10 + step), so that the average forgets where
    # it began: 0.999 is reached at step 8,990. Where it is on, the averages are what is evaluated,
    # decoded with, exported and started from; checkpoints hold both.
    optimizer.ema_decay = 0.0
    # Parameters that stay as they are: regexes, each matched against whole paths as --dry_run shows
    # them, ("encoder/.*", "token_embedder/embedding"). Layers are stacked, so that a parameter is
    # frozen in all layers of a stack or in none.
    optimizer.freeze = ()
    return optimizer


def _lora() -> ConfigDict:
    """Low-rank adapters (LoRA): everything but them is frozen, and checkpoints hold them alone."""
    lora = ConfigDict()
    # Rank of the adapters; 0 = no LoRA. It needs `init`, and the folder there for as long as the
    # run is used. Adafactor's steps are relative to a parameter's size, and adapters begin at 0:
    # take "adamw", as configs/lora.py does.
    lora.rank = 0
    # Their product is scaled by alpha / rank.
    lora.alpha = 16.0
    # Dropout of their input.
    lora.dropout = 0.0
    # Which projections have them: a regex, matched against whole paths such as
    # "encoder/layers/self_attention/query". ".*_attention/(query|value)" is the paper's.
    lora.targets = ".*"
    return lora


def _train() -> ConfigDict:
    """The train step and its loop."""
    train = ConfigDict()
    # Optimizer steps in the whole run.
    train.steps = 10_000
    # Packed rows in a global batch, over all devices and accumulation steps.
    train.batch_size = 16
    # Micro-batches a step; each holds batch_size / accumulation_steps rows.
    train.accumulation_steps = 1
    # What the summed NLL is divided by: "sequences" (the paper's objective: the mean over
    # sequences of a sequence's summed NLL) or "tokens" (the mean over target tokens).
    train.objective = "sequences"
    # Share of the target's probability that goes to all tokens alike, from 0 to below 1.
    train.label_smoothing = 0.0
    # Weight of log(Z)^2, Z the softmax's normaliser.
    train.z_loss = 1e-4
    # Target positions whose logits are alive at once; 0 = all.
    train.loss_chunk = 0
    # Steps with a non-finite loss, gradient or update, in a row, before the run ends with code 5.
    train.max_nonfinite_steps = 10
    # A step whose loss lies so many standard deviations above the median of the 100 before it is
    # told and written to spikes.jsonl with the ids of its examples; 0 = not.
    train.spike_deviations = 10.0
    # Steps between two lines of metrics.
    train.log_every = 10
    # Where figures go besides metrics.jsonl: "tensorboard", "wandb", "trackio"; () = nowhere.
    train.trackers = ("tensorboard",)
    # Steps traced by JAX's profiler into WORKDIR/profile, and the first of them; 0 = none.
    train.profile_steps = 0
    train.profile_start = 10
    # Folder of compiled functions, so that a run that goes on need not compile again; "" =
    # WORKDIR/compiled, or what JAX_COMPILATION_CACHE_DIR names; "off" = none. Each kind of machine
    # has a folder of its own in it.
    train.compile_cache = ""
    # Where a step takes longer, in seconds, the stacks of all threads are written to stderr and
    # WORKDIR/hung-STEP.txt; 0 = any time. With hung_step_exit the run ends then, with code 75.
    train.hung_step_seconds = 1_800.0
    train.hung_step_exit = False
    return train


def _checkpoint() -> ConfigDict:
    """When the run is saved."""
    checkpoint = ConfigDict()
    # Steps between two checkpoints; the last step has one too.
    checkpoint.every = 500
    # Newest checkpoints kept.
    checkpoint.keep = 3
    # Best checkpoints kept besides, by a figure of the validation at their step:
    # "loss_per_token", "loss_per_sequence" (less is better) or "accuracy" (more is). The best one
    # of all opens as --checkpoint=WORKDIR/checkpoints/best. 0 and "" = none.
    checkpoint.keep_best = 0
    checkpoint.best_metric = ""
    return checkpoint


def _evaluate() -> ConfigDict:
    """What is looked at during training, on the validation split."""
    evaluate = ConfigDict()
    # Steps between two evaluations; 0 = never.
    evaluate.every = 500
    # Validation examples for the loss; 0 = all.
    evaluate.examples = 512
    # Examples that are decoded and printed.
    evaluate.samples = 3
    # Length at which such an answer is cut off, in tokens.
    evaluate.max_new_tokens = 64
    return evaluate
