"""The configuration: every key with its help, how a command line becomes one, and what cannot go together.

In: `key=value` arguments and YAML files (`presets/`). Out: a validated `Config`, or one `ConfigError` that names the
key. Imports nothing heavy (torch, vllm, deepspeed, ray), so that `--help` is instant.
"""
