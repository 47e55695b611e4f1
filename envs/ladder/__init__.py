"""The ladder: small Llama-shaped models of this project, trained on the task suite, which vLLM serves as they are.

:mod:`~envs.ladder.shapes` says how big they are, :mod:`~envs.ladder.vocabulary` makes their tokenizer,
:mod:`~envs.ladder.rewording` and :mod:`~envs.ladder.batches` turn tasks into batches, :mod:`~envs.ladder.network` is
the model, :mod:`~envs.ladder.optimiser` and :mod:`~envs.ladder.train` learn, :mod:`~envs.ladder.checkpoint` writes what
vLLM reads.
"""
