"""Do Flat-LoRA and GraLoRA help, when, and by how much? Declared experiments, one runner, one analysis.

    python -m benchmarks.evidence NAME... [--quick] [--jobs 12] [--model PATH] [--wordnet DIR] [--out DIR]

``of_pictures.py`` and ``of_texts.py`` say what is asked and how it is decided, and are committed before an experiment
is run. ``--quick`` makes a few short runs on a CPU, to see that all of it works. Raw results are lines of JSON, one a
run, and a run that is there is not made again: a cut-off command goes on where it was.
"""
