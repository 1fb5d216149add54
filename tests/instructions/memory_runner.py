"""The simplest runner of a build's stages, all in dictionaries: an oracle for the others."""

from collections import defaultdict

from instructrec_jax.instructions.construct import construct, numbered_units
from instructrec_jax.instructions.flow import FILES, Run
from instructrec_jax.instructions.pipeline import STAGES


def run_in_memory(recipe, units=None):
    """(tally, {file: contents}) of a recipe, or of some of its units."""
    run = Run(recipe)
    streams = defaultdict(lambda: defaultdict(list))
    files = {}

    def take(emissions):
        for stream, key, value in emissions:
            if stream == FILES:
                files[key] = value
            else:
                streams[stream][key].append(value)

    if units is None:
        units = [unit for source in recipe.used_sources for unit in numbered_units(source, recipe)]
    for unit in units:
        take(construct(unit, run))
    for stage in STAGES:
        run.side = stage.side(recipe, run.tally) if stage.side else None
        keys = {key for name in stage.reads for key in streams[name]}
        for key in keys:
            group = {name: streams[name].get(key, []) for name in stage.reads}
            take(stage.apply(key, group, run))
    run.close()
    return run.tally, files
