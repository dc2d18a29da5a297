"""The settings of a run, as a pipeline. Each step takes all settings and returns them in a new form.

parser.parse        command line and YAML layers -> flags (own_flags.py, upstream.py, layers.py)
defaults.complete   flags -> Settings, complete and read-only (run_settings.py)
checks.check        every rule that needs no file: ranges, then the tables of the *_checks files
preflight.inspect   models, rewards and data, read and checked -> Inputs (the package preflight/)
resuming.choose     the checkpoint to resume (runs/resuming.py)
arguments           Settings -> the nested arguments that upstream trains with
banner              what is printed before the start
"""
