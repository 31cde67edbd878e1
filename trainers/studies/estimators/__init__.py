"""Likelihood estimators against exact values of the sampler in use (scripts/compare_estimators.py).

On a model whose canvases can be enumerated (`enumerable`) both are known (`core.oracles.sampler_law`), so bias and
variance of an estimator are measured and not argued about:

*likelihood*: completions drawn by the sampler; the estimate of log p(completion | prompt) against the exact value.

*gradient*: batches of N rollouts, advantages A = R - E R with the exact expected reward of the prompt, and the
gradient of (1/N) sum_b A_b sum_k token_weight_bk per_token_logps_bk: the trainer's loss at ratio 1. It is compared
with the gradient of the exact expected reward. Bias is measured on differences to *REINFORCE*, the same batch with the
exact log p: that one is unbiased and shares the noise of the rollouts, which so cancels.

`enumerable` is the task and the model, `variants` what is compared, `comparison` and `gradients` how, `rows` what was
found; `report` and `picture` show it.
"""
